"""Banking77 as published -> data/banking77.csv beside the spec.

    TAILORBIRD_DATA=path/to/data python prepare.py

Needs finance-banking77/train.csv: the train half of <https://github.com/PolyAI-LDN/task-specific-datasets>
(banking_data/train.csv), CC BY 4.0, PolyAI. 10,003 rows, 77 intents; copied as it is.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds finance-banking77/train.csv")
    (HERE / "data").mkdir(exist_ok=True)
    shutil.copyfile(Path(data) / "finance-banking77" / "train.csv", HERE / "data" / "banking77.csv")
    print("data/banking77.csv is there; next: tailorbird check banking77.yaml")


if __name__ == "__main__":
    main()

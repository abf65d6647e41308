"""A user's own day, from a table to answers: init, check, run, show, apply, and the same from Python.

    TAILORBIRD_DATA=path/to/data python users_day.py [--folder work] [--python-anew]

A thousand Banking77 messages of twenty topics; what the user has today is an old classifier, and its answers take part
as `{label: today, answers: production.csv}`. That old classifier is a stand-in, honestly: a TF-IDF model with logistic
regression, fitted here on 300 *other* rows of the same topics, as if nobody had touched it since the first week.
Afterwards 2,000 further messages are answered with the recommended customization; that process is killed half way
(SIGKILL; on Windows TerminateProcess) and the same command started again. Every figure is printed; the script exits
with 1 when one of the promises it checks does not hold. `--python-anew` runs the Python API from nothing in a second
folder instead of on the finished run: the same figures, for another run's time.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

TOPICS = 20
ROWS, OLD_ROWS, APPLY_ROWS = 1000, 300, 2000
KILL_AT = 0.4  # of the rows to apply

Table = list[dict[str, str]]


def by_hash(rows: Table) -> Table:
    return sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())


def write(path: Path, rows: Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def prepare(source: Path, folder: Path) -> None:
    """messages.csv (text, label), production.csv (text, label: the old classifier's answers), inbox.csv (id, text)."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = [{"text": row["text"].strip(), "label": row["category"]} for row in csv.DictReader(file)]
    rows = by_hash(list({row["text"]: row for row in rows}.values()))
    largest = {
        topic for topic, _ in sorted(Counter(r["label"] for r in rows).items(), key=lambda i: (-i[1], i[0]))[:TOPICS]
    }
    ours = [row for row in rows if row["label"] in largest]
    old, mine = ours[:OLD_ROWS], ours[OLD_ROWS : OLD_ROWS + ROWS]
    used = {row["text"] for row in [*old, *mine]}
    inbox = [row for row in rows if row["text"] not in used][:APPLY_ROWS]  # of any topic, as messages come in

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    classifier.fit([row["text"] for row in old], [row["label"] for row in old])
    answers = classifier.predict([row["text"] for row in mine])
    write(folder / "messages.csv", mine)
    write(folder / "production.csv", [{"text": r["text"], "label": str(a)} for r, a in zip(mine, answers, strict=True)])
    write(folder / "inbox.csv", [{"id": f"m{n:05d}", "text": row["text"]} for n, row in enumerate(inbox)])


def tailorbird(*arguments: str, folder: Path, capture: bool = False) -> str:
    """Runs the command as a user would and prints its time; a failure ends the day."""
    print(f"\n$ tailorbird {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", *arguments],
        cwd=folder, text=True, encoding="utf-8", stdout=subprocess.PIPE if capture else None,
    )  # fmt: skip
    print(f"[{arguments[0]}: {time.perf_counter() - start:.1f} s, exit {done.returncode}]", flush=True)
    if done.returncode != 0:
        sys.exit(f"`tailorbird {' '.join(arguments)}` ended with {done.returncode}")
    return done.stdout or ""


def edit_spec(spec: Path) -> None:
    """What a user does in an editor: adds what is in production, and names the contestants to try."""
    from ruamel.yaml import YAML

    yaml = YAML()
    document = yaml.load(spec.read_text(encoding="utf-8"))
    document["contestants"] = [
        "majority", "tfidf", {"label": "today", "answers": "production.csv"}, "zero_shot", "few_shot", "lora", "sft",
    ]  # fmt: skip
    with spec.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def lines_written(target: Path) -> int:
    """Rows that `apply` has put on disk so far, in the file itself or in a partial one beside it."""
    candidates = [p for p in target.parent.glob(f"*{target.name}*") if p.is_file()]
    return max((p.read_bytes().count(b"\n") for p in candidates), default=0)


def apply_and_kill(run: str, folder: Path) -> None:
    """`apply` killed once, started again: each row once; prints the rate of both parts together."""
    arguments = ["apply", run, "inbox.csv", "-o", "answers.csv"]
    target = folder / "answers.csv"
    print(f"\n$ tailorbird {' '.join(arguments)}    (killed at about {KILL_AT:.0%})", flush=True)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tailorbird", *arguments], cwd=folder)
    while process.poll() is None and lines_written(target) < KILL_AT * APPLY_ROWS:
        time.sleep(0.1)
    killed = process.poll() is None
    process.kill()
    process.wait()
    first, before = time.perf_counter() - start, lines_written(target)
    print(f"[{'killed' if killed else 'NOT KILLED: it had ended'} after {first:.1f} s, {before} lines on disk]")
    start = time.perf_counter()
    tailorbird(*arguments, folder=folder)
    second = time.perf_counter() - start
    with (folder / "inbox.csv").open(encoding="utf-8", newline="") as file:
        asked = [row["id"] for row in csv.DictReader(file)]
    with target.open(encoding="utf-8", newline="") as file:
        answered = [row["id"] for row in csv.DictReader(file)]
    rate = len(asked) / (first + second)
    print(f"apply: {len(asked)} rows in {first + second:.1f} s = {rate:.1f} rows/s, start-up twice")
    if not killed or answered != asked:
        missing, twice = set(asked) - set(answered), [i for i, n in Counter(answered).items() if n > 1]
        sys.exit(f"each row once: NO ({len(missing)} missing, {len(twice)} twice, killed: {killed})")
    print("apply: each row once and in order")


def python_agrees(spec: Path, run: Path, folder: Path, anew: bool) -> None:
    """`tailorbird.run` on the same spec against `show --json --stable`."""
    shown = json.loads(
        tailorbird("show", str(run.relative_to(folder)), "--json", "--stable", folder=folder, capture=True)
    )
    place = folder / "python" if anew else folder
    if anew:
        place.mkdir()
        for name in (spec.name, "messages.csv", "production.csv"):
            (place / name).write_bytes((folder / name).read_bytes())
    start = time.perf_counter()
    program = (
        "import json, sys, tailorbird\n"
        "comparison = tailorbird.run(sys.argv[1])\n"
        "print(comparison.folder, file=sys.stderr)\n"
    )
    subprocess.run([sys.executable, "-c", program, spec.name], cwd=place, check=True)
    seconds = time.perf_counter() - start
    again = json.loads(
        tailorbird("show", str(run.relative_to(folder)), "--json", "--stable", folder=place, capture=True)
    )
    print(f"python: {seconds:.1f} s, {'from nothing' if anew else 'on the finished run'}")
    if again != shown:
        sys.exit("python: its stable comparison differs")
    print("python: the same stable comparison")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent / "work")
    parser.add_argument("--python-anew", action="store_true")
    options = parser.parse_args()
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to a folder that holds finance-banking77/train.csv")
    folder: Path = options.folder.resolve()
    if folder.exists():
        sys.exit(f"{folder} is there from an earlier day: remove it, or name another with --folder")
    folder.mkdir(parents=True)
    prepare(Path(data) / "finance-banking77" / "train.csv", folder)

    start = time.perf_counter()
    tailorbird("init", "messages.csv", folder=folder)
    spec = next(folder.glob("*.yaml"))
    edit_spec(spec)
    tailorbird("check", spec.name, folder=folder)
    tailorbird("run", spec.name, folder=folder)
    run = next(path.parent for path in (folder / "runs").glob("*/comparison.json"))
    tailorbird("show", str(run.relative_to(folder)), folder=folder)
    print(f"\ninit, check, run, show: {(time.perf_counter() - start) / 60:.1f} min")

    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    label = comparison["recommendation"]["label"]
    if label is None:  # keep or none: RUN alone names nobody, so the best technique on Validation is taken
        done = [r for r in comparison["rows"] if r["kind"] == "technique" and r["state"] == "done"]
        label = max(done, key=lambda r: r["validation"]["score"])["label"]
    print(f"verdict: {comparison['recommendation']['verdict']}; applying {label}")
    apply_and_kill(f"{run.relative_to(folder)}:{label}", folder)
    python_agrees(spec, run, folder, options.python_anew)


if __name__ == "__main__":
    main()

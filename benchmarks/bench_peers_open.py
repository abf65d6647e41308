"""The demo's customizations opened by plain transformers and peft, one row at a time, in fp32, against ours.

    python benchmarks/bench_peers_open.py [RUN]

For every Test row: the largest difference of the logits after the prompt, and whether the label is the same; rows whose
two best labels lie within 1e-3 nats are counted apart. Exit 1 when logits differ by more than 1e-4 or a label does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOLERANCE, TIE = 1e-4, 1e-3


def main() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tailorbird import spec as specs
    from tailorbird.answerers.opening import open_customization, release
    from tailorbird.bases.catalog import resolve
    from tailorbird.running.material import read_material

    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    origin = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    spec_path = Path(sys.argv[2]) if len(sys.argv) > 2 else _demo_spec()
    material = read_material(specs.load(spec_path), lambda text: None)
    base = resolve(comparison["base"]["name"])
    failed = False
    torch.set_num_threads(int(origin["threads"]))
    for row in comparison["rows"]:
        if row["technique"] not in ("prompt_tuning", "lora", "sft") or row["state"] != "done":
            continue
        folder = run / row["artifact"]
        release()
        ours = open_customization(folder, base, dtype="float32")
        if row["technique"] == "sft":
            theirs: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
        else:
            plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
            theirs = PeftModel.from_pretrained(plain, str(folder)).eval()
        labels = {label: ours.renderer.answer(words) for label, words in ours.parts.decode.labels.items()}
        worst, ties, other = 0.0, 0, 0
        answers = list(ours.answer(material.task.request(r) for r in material.splits.test))
        for example, answer in zip(material.splits.test, answers, strict=True):
            ids = ours.prompt(example.prompt)
            places, values = ours.top_logits(ids, ours.base.vocabulary)
            scores = {}
            longest = max(map(len, labels.values()))
            # One row at a time, its labels side by side; what stands behind a shorter label cannot be seen by it.
            batch = [ids + tokens + [tokens[-1]] * (longest - len(tokens)) for tokens in labels.values()]
            with torch.no_grad():
                logits = theirs(input_ids=torch.tensor(batch), logits_to_keep=longest + 1).logits
            worst = max(worst, float((logits[0, 0][places] - torch.tensor(values)).abs().max()))
            table = torch.log_softmax(logits.double(), -1)
            for place, (label, tokens) in enumerate(labels.items()):
                scores[label] = sum(float(table[place, i, token]) for i, token in enumerate(tokens))
            best, second = sorted(scores.values(), reverse=True)[:2]
            if max(scores, key=lambda name: scores[name]) != answer.label:
                if best - second <= TIE:
                    ties += 1
                else:
                    other += 1
        failed |= worst > TOLERANCE or other > 0
        told = {"label": row["label"], "rows": len(answers), "largest_logit_difference": worst}
        print(json.dumps(told | {"other_label_within_1e-3_nats": ties, "other_label": other}), flush=True)
    sys.exit(1 if failed else 0)


def _demo_spec() -> Path:
    from importlib.resources import files

    return Path(str(files("tailorbird.examples") / "demo" / "demo.yaml"))


if __name__ == "__main__":
    main()

"""Makes the built-in retention set again: general texts on which forgetting is measured.

    TAILORBIRD_DATA=path/to/data python benchmarks/make_retention.py [FOLDER]

Texts of 300-900 characters of eleven kinds, drawn by the hash of the text (no random generator), none sharing a
normalized 8-word shingle with another one or with Banking77, which the demo trains on. `fast` marks eighty of them,
every kind in its proportion. The code texts are functions of the standard library of the Python that runs this: the
committed file was made with CPython 3.11. Sources, licences, copyright: src/tailorbird/measure/retention/LICENCES.md.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import re
import sys
import textwrap
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src" / "tailorbird" / "measure" / "retention"
SHORTEST, LONGEST = 300, 900  # characters
FAST = 80

# kind: (texts, source, licence)
KINDS = {
    "maths": (36, "GSM8K train", "MIT"),
    "science": (32, "PubMedQA (PQA-L) abstracts", "MIT"),
    "law": (36, "GDPR; Regulation B", "CC BY 4.0; US federal text"),
    "textbook": (36, "OpenStax Pharmacology for Nurses", "CC BY 4.0"),
    "dialogue": (30, "Taskmaster-4", "CC BY 4.0"),
    "instructions": (34, "Self-Instruct seed tasks", "Apache-2.0"),
    "code": (32, "Python standard library 3.11", "PSF-2.0"),
    "procedures": (12, "ABCD agent guidelines", "MIT"),
    "prose": (14, "written for Tailorbird", "Apache-2.0"),
    "literature": (12, "works in the public domain", "public domain"),
    "other languages": (6, "written for Tailorbird", "Apache-2.0"),
}
# Song lyrics and a copied thread, whose words are not the authors' to license; remarks about religions.
LEFT_OUT = {"seed_task_79", "seed_task_172", "seed_task_36", "seed_task_55"}
MODULES = (
    "ast bisect calendar collections/__init__ configparser contextlib csv dataclasses datetime difflib enum fnmatch "
    "fractions functools glob gzip heapq html/__init__ inspect ipaddress json/decoder keyword linecache locale "
    "mimetypes numbers operator pathlib pprint queue random sched shlex shutil statistics string tempfile textwrap "
    "timeit types urllib/parse uuid wave zipfile"
).split()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 8]) for i in range(len(found) - 7)}


def clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def maths(data: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate((data / "cot-gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        worked = re.sub(r"<<[^>]*>>", "", row["answer"]).replace("#### ", "Answer: ")
        yield f"train {number}", f"{clean(row['question'])}\n{worked.strip()}"


def science(data: Path) -> Iterator[tuple[str, str]]:
    rows = json.loads((data / "health-pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))
    test = json.loads((data / "health-pubmedqa/test_ground_truth.json").read_text(encoding="utf-8"))
    for identifier in test:  # the official test half: the example trains on the other one
        yield f"PMID {identifier}", clean(rows[identifier]["CONTEXTS"][0])


def law(data: Path) -> Iterator[tuple[str, str]]:
    gdpr = json.loads((data / "guideline-gdpr/gdpr.json").read_text(encoding="utf-8"))

    def points(node: object, trail: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            here = f"{trail} {node.get('type', '')} {node.get('number', '')}".strip()
            if isinstance(node.get("text"), str):
                yield f"GDPR {here}", clean(node["text"])
            for value in node.values():
                yield from points(value, here)
        elif isinstance(node, list):
            for value in node:
                yield from points(value, trail)

    yield from points(gdpr, "")
    root = ET.parse(data / "guideline-cfpb-reg-b/reg-B_12CFR1002_2017-20417.xml")
    for paragraph in root.iter("{eregs}paragraph"):
        content = paragraph.find("{eregs}content")
        if content is not None:
            yield f"12 CFR {paragraph.get('label')}", clean("".join(content.itertext()))


def textbook(data: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((data / "domain-pharmacology/modules").glob("*.cnxml")):
        for para in ET.parse(path).iter("{http://cnx.rice.edu/cnxml}para"):
            text = clean("".join(para.itertext()))
            if text and text[0].isupper() and text[-1] == ".":
                yield f"{path.stem} {para.get('id')}", text


def dialogue(data: Path) -> Iterator[tuple[str, str]]:
    for item in json.loads((data / "support-taskmaster4/data_06.json").read_text(encoding="utf-8")):
        turns = [
            f"{u['speaker'].capitalize()}: {clean(u['text'].replace(chr(92) + 'r', ' '))}"
            for u in item["utterances"]
            if u.get("text")
        ]
        yield item["conversation_id"], "\n".join(turns)


def instructions(data: Path) -> Iterator[tuple[str, str]]:
    for line in (data / "instruct-self-instruct-seed/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            if row["id"] in LEFT_OUT:
                continue
            first = row["instances"][0]
            parts = [row["instruction"].strip(), first["input"].strip(), first["output"].strip()]
            yield row["id"], "\n".join(part for part in parts if part)


def code(data: Path) -> Iterator[tuple[str, str]]:
    library = Path(os.__file__).parent
    for module in MODULES:
        text = (library / f"{module}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                source = ast.get_source_segment(text, node)
                if source:
                    source = textwrap.dedent(" " * node.col_offset + source)
                    yield f"{module.replace('/', '.')}.{node.name}", source


def procedures(data: Path) -> Iterator[tuple[str, str]]:
    flows = json.loads((data / "support-abcd/guidelines.json").read_text(encoding="utf-8"))
    for flow, content in flows.items():
        for name, sub in content["subflows"].items():
            lines = [line for action in sub["actions"] for line in [action["text"], *action["subtext"]]]
            text = f"{name}. " + " ".join(clean(line) for line in lines)
            yield f"{flow}: {name}", text if len(text) <= LONGEST else text[: text.rfind(". ", 0, LONGEST) + 1]


def own(kind: str) -> Iterator[tuple[str, str]]:
    for block in (HERE / "retention/own.txt").read_text(encoding="utf-8").split("### ")[1:]:
        head, text = block.split("\n", 1)
        name, _, source = head.partition(" | ")
        if name == kind:
            yield source, text.strip()


def candidates(kind: str, data: Path) -> Iterator[tuple[str, str]]:
    """(where in the source, text)"""
    makers = {f.__name__: f for f in (maths, science, law, textbook, dialogue, instructions, code, procedures)}
    return makers[kind](data) if kind in makers else own(kind)


def source_and_licence(kind: str, where: str) -> tuple[str, str]:
    _, source, licence = KINDS[kind]
    if kind == "law":
        at = 0 if where.startswith("GDPR") else 1
        source, licence = source.split("; ")[at], licence.split("; ")[at]
    return f"{source}, {where}", licence


def make(data: Path) -> dict[str, list[dict[str, object]]]:
    """kind -> its texts in the order of their hashes."""
    with (data / "finance-banking77/train.csv").open(encoding="utf-8", newline="") as file:
        taken = set().union(*(shingles(row["text"]) for row in csv.DictReader(file)))
    made: dict[str, list[dict[str, object]]] = {}
    for kind, (wanted, _, _) in KINDS.items():
        found = [(w, t) for w, t in candidates(kind, data) if SHORTEST <= len(t) <= LONGEST]
        found.sort(key=lambda pair: hashlib.sha256(pair[1].encode()).hexdigest())
        texts: list[dict[str, object]] = []
        for where, text in found:
            own_shingles = shingles(text)
            if len(texts) == wanted or not own_shingles.isdisjoint(taken):
                continue
            taken |= own_shingles
            source, licence = source_and_licence(kind, where)
            name = f"{kind.replace(' ', '-')}-{len(texts) + 1:02d}"
            texts.append({"id": name, "kind": kind, "source": source, "licence": licence, "text": text, "fast": False})
        made[kind] = texts
    mark_fast(made)
    return made


def mark_fast(made: dict[str, list[dict[str, object]]]) -> None:
    """Marks FAST texts, each kind by its share, the largest remainders filling up."""
    total = sum(len(texts) for texts in made.values())
    exact = {kind: FAST * len(texts) / total for kind, texts in made.items()}
    count = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(exact, key=lambda k: count[k] - exact[k])[: FAST - sum(count.values())]:
        count[kind] += 1
    for kind, texts in made.items():
        for text in texts[: count[kind]]:
            text["fast"] = True


def main(target: Path) -> None:
    data = os.environ.get("TAILORBIRD_DATA")
    if not data:
        sys.exit("set TAILORBIRD_DATA to the folder of public data")
    target.mkdir(parents=True, exist_ok=True)
    for kind, texts in make(Path(data)).items():
        lines = [json.dumps(text, ensure_ascii=False) for text in texts]
        (target / f"{kind.replace(' ', '-')}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        size = sum(len(str(text["text"])) for text in texts)
        print(f"{kind:16} {len(texts):4} texts {size:7,} characters, {sum(bool(t['fast']) for t in texts)} fast")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)

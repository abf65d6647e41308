"""Writes docs/spec.md from the models that read a spec, and the codes in docs/data.md: pages that cannot say anything
else than the code. `make docs`"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tailorbird import techniques
from tailorbird.data.reading import CODES
from tailorbird.spec import (
    BaseSpec,
    Contestant,
    DataSpec,
    ExampleSource,
    Limits,
    ReplaySpec,
    ReportSpec,
    Requirements,
    Spec,
    SplitSpec,
    TaskSpec,
    Tune,
)

DOCS = Path(__file__).resolve().parent
SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("base", BaseSpec), ("data", DataSpec), ("data.examples[]", ExampleSource), ("data.replay", ReplaySpec),
    ("task", TaskSpec), ("contestants[]", Contestant), ("contestants[].tune", Tune), ("requirements", Requirements),
    ("limits", Limits), ("split", SplitSpec), ("report", ReportSpec),
]  # fmt: skip
HEAD = """# The spec

Written from the code by `docs/make_spec.py`; a test compares the two.

A spec is one YAML file (YAML 1.2: `1e-4` is a number, `no` is a string). Two lines are a whole one:

```yaml
base: smollm2-135m
data: rows.csv
```

Everything else has a default, and `tailorbird check SPEC` shows it. Relative paths start at the spec's folder. An
unknown field stops the run with its line and the nearest known name, all problems at once. A field that is set but
would have no effect stops it as well: nothing is ignored. On the command line `key=value` overrides a field:
`tailorbird run demo.yaml requirements.margin=0.02 contestants.lora.rank=8`.

Short forms: `base: NAME`, `data: FILE` or a list of files, `task: KIND`, a contestant as a bare name (`- lora`) or as
`- {lora: {rank: 8}, label: small}`; several settings of one technique stand side by side under labels.

One technique after another: `- {lora: {rank: 8}, label: specialist, after: sft}` starts from the contestant `sft`, and
`after: runs/other:sft` from one of another run on the same base. What results holds the parent's parts and its own. A
technique goes on with a parent's part of its own kind and leaves others frozen in place; rank, alpha, targets, number
of virtual tokens and encoder are then the parent's, and asking for others, searching them or saying how a new part
would begin is refused. `peft` goes on with nothing of its own. `sft` first adds to the weights what its parent put
beside them. `p_tuning` goes on with its
encoder and the optimizer's state, others with the latter where the parent has `keep_optimizer: true`: at a constant
rate without warm-up k epochs and k more are then 2k, bit for bit, on the same Train rows. Rows that the parent learned
from in another run stay in Train (those that only chose its best point: in Train or Tuning), so Validation and Test
need rows that are new to it.

More than once: `- {lora: {}, seeds: 5}` is made five times, and its interval speaks of the technique;
`- {lora: {}, tune: 8}` first tries eight settings on Train and Tuning rows, the first its defaults, and
`tune: {minutes: 20, over: {learning_rate: [1e-4, 1e-2], rank: [8, 16, 32], epochs: null}}` says how long and over what
(two numbers are a range, more are choices, nothing is the technique's own range);
`- {lora: {}, curve: [25, 50, 100]}` learns from nested shares of Train and answers whether more labels would help.
"""
TAIL = """
## Settings of a technique

Written under `settings:` of a contestant, or in the short form `- {NAME: {…}}`. "by base and rows" means that the
default depends on the base or on the number of Train rows; `check` shows what it came to.

Default learning rates were measured on SmolLM2-135M (hidden size 576) alone. Where matrices of the network learn
(`sft`, `lora`, `selective` with `last_layers`, `peft` with `dora` or `loha`) a wider base gets them times 576 / hidden
size, as muP has it for Adam (Yang et al. 2021, table 3), and a narrower one as they are: that is taken from the
literature, not measured here.

| hidden size | `sft` | `lora` |
|---|---|---|
| 576 (SmolLM2-135M; measured) | 1e-4, from 2,000 rows 2e-4 | 5e-4, from 2,000 rows 1e-3 |
| 2048 (about 1 billion parameters) | 2.8e-5, 5.6e-5 | 1.4e-4, 2.8e-4 |
| 4096 (about 8 billion) | 1.4e-5, 2.8e-5 | 7e-5, 1.4e-4 |

Soft prompts, prefixes, encoders and vectors (`ia3`, `vera`, biases, norms) are no matrices of the network: their rates
do not depend on the base. With `tune:` the rate is searched from a fifth of the default to five times it.
"""


def type_text(annotation: Any) -> str:
    """`int | None` -> "int"; Literal -> its values; models by name."""
    if hasattr(annotation, "__metadata__"):
        return type_text(annotation.__origin__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if str(origin) == "typing.Literal":
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"mapping: {type_text(arguments[0])} → {type_text(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    if arguments:
        return " or ".join(dict.fromkeys(type_text(a) for a in arguments if a is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "yes/no (`true`, `false`)"}.get(
        getattr(annotation, "__name__", ""), "any"
    )


def bounds(metadata: list[Any]) -> str:
    signs = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
    return ", ".join(
        f"{sign} {getattr(m, name)}" for m in metadata for kind, (sign, name) in signs.items() if isinstance(m, kind)
    )


def constraints(field: FieldInfo) -> list[Any]:
    """Bounds of the field and of an Annotated type inside it (`Count | None`)."""
    found = list(field.metadata)
    pending = [field.annotation]
    while pending:
        annotation = pending.pop()
        found += getattr(annotation, "__metadata__", ())
        if get_origin(annotation) not in (list, dict):
            pending += [a for a in get_args(annotation) if not isinstance(a, str)]
    flat: list[Any] = []
    for item in found:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    return flat


def default_text(field: FieldInfo, *, dynamic: bool = False) -> str:
    if field.is_required():
        return "by base and rows" if dynamic else "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ({}, [], ()) or isinstance(value, BaseModel):
        return ""
    return f"`{value}`"


def rows(model: type[BaseModel], *, dynamic: bool = False) -> str:
    lines = ["| field | type | range | default | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
        cells = [
            f"`{name}`", type_text(field.annotation), bounds(constraints(field)),
            default_text(field, dynamic=dynamic), meaning,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page() -> str:
    parts = [HEAD, "## Top level\n", rows(Spec)]
    for name, model in SECTIONS:
        parts += [f"\n## `{name}`\n", f"{(model.__doc__ or '').strip()}\n", rows(model)]
    parts.append(TAIL)
    for name in techniques.NAMES:
        technique = techniques.get(name)
        parts.append(f"### `{name}`\n\n{technique.citation}.\n".replace("..", "."))
        parts.append(rows(technique.Settings, dynamic=True) if technique.Settings.model_fields else "No settings.")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def data_page(written: str) -> str:
    """docs/data.md with its list of codes made anew."""
    codes = "; ".join(f"`{code}` {meaning}" for code, meaning in CODES.items())
    lines = textwrap.fill(f"{codes}.", 120, break_on_hyphens=False)
    return re.sub(r"(?s)(<!-- codes -->\n).*(<!-- /codes -->)", lambda m: f"{m[1]}{lines}\n{m[2]}", written)


if __name__ == "__main__":
    (DOCS / "spec.md").write_text(page(), encoding="utf-8")
    (DOCS / "data.md").write_text(data_page((DOCS / "data.md").read_text(encoding="utf-8")), encoding="utf-8")
    print("spec.md and the codes of data.md written")

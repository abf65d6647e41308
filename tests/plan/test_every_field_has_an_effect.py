"""No option is ignored: each field of the spec, set to something else, gives another plan.

Of `data`, `split` and `requirements` the plan has a copy: that they are used is shown by
run/test_every_field_of_the_data_is_read.py and run/test_flow.py::test_each_requirement_is_judged_by.
"""

from __future__ import annotations

import typing
from typing import Any

import pytest
from pydantic import BaseModel

from tailorbird.plan import make_plan
from tailorbird.spec import ExampleSource, ReplaySpec, Spec

from .conftest import make_facts, make_spec

CLASSIFY: dict[str, Any] = {
    "contestants": ["zero_shot", "lora", {"label": "c", "command": "x"}, {"label": "f", "answers": "x"}]
}

# One value for each field that differs from its default; a new field without a line here fails the test below.
OTHER: dict[str, Any] = {
    "name": "other",
    "base.name": None,  # the facts of another base: `test_another_base_is_another_plan`
    "base.revision": None,  # refused: see test_plan
    "data.examples": ["other.csv"],
    "data.replay": {"path": "talk.jsonl", "share": 0.1},
    "data.test": "test.csv",
    "data.validation": "validation.csv",
    "data.retention": "fast",
    "data.shape": "messages",
    "data.columns": {"prompt": "q"},
    "data.sheet": "Rows",
    "data.supervise": "last",
    "data.group": "customer",
    "data.slices": ["language"],
    "data.max_bad_share": 0.2,
    "data.overlap": "drop_from_train",
    "task.kind": None,  # `tasks.build` makes the task of the facts from these four: see tests/run
    "task.instruction": None,
    "task.labels": None,
    "task.metric": None,
    "task.max_new_tokens": None,
    "contestants": ["zero_shot", "sft"],
    "requirements.margin": 0.05,
    "requirements.min_score": 0.5,
    "requirements.latency_ms": 100.0,
    "requirements.max_forgetting": 0.1,
    "requirements.max_deployed_mb": 50.0,
    "limits.minutes": 100.0,
    "limits.memory_gb": 9.0,
    "limits.threads": None,  # becomes machine.threads of the facts: see tests/run
    "split.train": 100,
    "split.tuning": 30,
    "split.validation": 100,
    "split.test": 100,
    "seed": 7,
    "device": None,  # becomes machine.device of the facts: see tests/run
    "dtype": "float32",
    "report.rows": "none",
    "version": None,  # there is only one
}


def fields(model: type[BaseModel], path: str = "") -> typing.Iterator[str]:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_the_list_above_is_complete() -> None:
    assert set(OTHER) == set(fields(Spec))


@pytest.mark.parametrize("path", [path for path, value in OTHER.items() if value is not None])
def test_a_field_that_is_set_gives_another_plan(path: str) -> None:
    base: dict[str, Any] = {**CLASSIFY, "data": {"examples": "rows.csv"}}
    if path == "data.overlap":
        base["data"]["test"] = "test.csv"
    changed = {**base, "data": dict(base["data"])}
    head, _, tail = path.partition(".")
    if tail:
        changed[head] = {**changed.get(head, {}), tail: OTHER[path]}
    else:
        changed[head] = OTHER[path]
    before, after = (make_plan(make_spec(**s), make_facts()).as_dict() for s in (base, changed))
    assert before != after


@pytest.mark.parametrize(
    "contestant",
    [
        "sft",
        {"lora": {"rank": 4}},
        {"label": "other", "technique": "lora"},
        {"label": "lora", "technique": "lora", "after": "runs/other:sft"},
        {"label": "lora", "answers": "x.csv"},
        {"label": "lora", "command": "x"},
        {"label": "lora", "command": "x", "timeout_seconds": 5.0},
        {"label": "lora", "adapter": "x"},
        {"lora": {}, "seeds": 2},
        {"lora": {}, "tune": 8},
        {"lora": {}, "tune": {"minutes": 5.0}},
        {"lora": {}, "curve": [50, 100]},
    ],
)
def test_each_field_of_a_contestant_gives_another_plan(contestant: Any) -> None:
    seen = [make_plan(make_spec(contestants=["zero_shot", c]), make_facts()).entrants for c in ("lora", contestant)]
    assert seen[0] != seen[1]


SOURCE: dict[str, Any] = {"path": "a.csv", "name": "a", "share": 0.5}
REPLAY: dict[str, Any] = {"path": "talk.jsonl", "share": 0.1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "c.csv"),
        ("name", "c"),
        ("instruction", "Answer."),
        ("instruction", ["Answer.", "Say it."]),
        ("share", 0.25),
        ("shape", "alpaca"),
        ("columns", {"prompt": "q"}),
        ("sheet", "Rows"),
    ],
)
def test_each_field_of_a_source_gives_another_plan(field: str, value: Any) -> None:
    assert set(ExampleSource.model_fields) == {"path", "name", "instruction", "share", "shape", "columns", "sheet"}
    seen = [
        make_plan(make_spec(data={"examples": [one, "b.csv"]}), make_facts())
        for one in (SOURCE, {**SOURCE, field: value})
    ]
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    "tune",
    [
        {"trials": 9},
        {"trials": 8, "over": {"rank": None}},
        {"trials": 8, "over": {"learning_rate": [1e-4, 1e-2]}},
        {"trials": 8, "over": {"rank": [4, 8, 16]}},
    ],
)
def test_each_field_of_a_search_gives_another_plan(tune: Any) -> None:
    seen = [
        make_plan(make_spec(contestants=[{"lora": {}, "tune": t}]), make_facts()).entrant("lora") for t in (8, tune)
    ]
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("path", "c.jsonl"), ("share", 0.2), ("shape", "messages"), ("columns", {"prompt": "q"}), ("sheet", "Rows")],
)
def test_each_field_of_replay_gives_another_plan(field: str, value: Any) -> None:
    assert set(ReplaySpec.model_fields) == {"path", "share", "shape", "columns", "sheet"}
    seen = [
        make_plan(make_spec(data={"examples": "rows.csv", "replay": one}), make_facts())
        for one in (REPLAY, {**REPLAY, field: value})
    ]
    assert seen[0] != seen[1]


def test_a_contestant_s_own_share_of_replay_gives_another_plan() -> None:
    data = {"examples": "rows.csv", "replay": REPLAY}
    seen = [
        make_plan(make_spec(data=data, contestants=["sft", {"lora": {}, **own}]), make_facts()).entrant("lora")
        for own in ({}, {"replay": 0.4}, {"replay": 0})
    ]
    assert [e.replay for e in seen] == [0.1, 0.4, 0.0]
    assert seen[1].steps > seen[0].steps > seen[2].steps


def test_another_base_is_another_plan() -> None:
    import dataclasses

    facts = make_facts()
    other = dataclasses.replace(facts, base=dataclasses.replace(facts.base, fingerprint="sha256:11"))
    assert make_plan(make_spec(), facts) != make_plan(make_spec(), other)

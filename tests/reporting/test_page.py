"""The report page: answers a newcomer's questions, loads nothing, runs nothing, hides rows when it must."""

from __future__ import annotations

import copy
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from tailorbird.reporting.contestants import bare_base
from tailorbird.reporting.page import render, write_report
from tailorbird.reporting.page.chart_curves import series, thinned
from tailorbird.reporting.page.pictures import signed_tick
from tailorbird.reporting.page.svg import log_ticks, ticks
from tailorbird.reporting.verdict import headline
from tailorbird.types import Message, Role

from .fixture import Case, bank, with_failures, with_verdict, write_task

VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}
PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "javascript:alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</details></section><iframe src=https://evil.example></iframe>",
    "<link rel=stylesheet href=https://evil.example/a.css>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- --><base href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\x1b[31mred\x00\u202ebidi",
    "<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>",
]


class Page(HTMLParser):
    """Elements with their attributes, the text a reader sees, and tags that were not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.crossed: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.text += data


def assert_inert(source: str) -> None:
    page = Page(source)
    assert not page.crossed
    assert page.stack == []
    for tag, attributes in page.elements:
        assert tag not in {
            "script",
            "iframe",
            "object",
            "embed",
            "base",
            "link",
            "img",
            "form",
            "math",
            "foreignobject",
            "a",
        } or (tag == "a" and (attributes["href"] or "").startswith("#"))
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"src", "srcset", "action", "formaction", "xlink:href", "background", "poster"}
            assert "javascript:" not in (value or "") or name in {"title", "aria-label"}
            assert "http:" not in (value or "")
            assert "https:" not in (value or "") or name in {"title", "aria-label"}
    assert source.count("<style>") == 1


@pytest.fixture(scope="module")
def case() -> Case:
    return bank()


def every_kind(case: Case) -> dict[str, Case]:
    return {
        "use": case, "keep": with_verdict(case, "keep"), "undecided": with_verdict(case, "undecided"),
        "none": with_verdict(case, "none"), "failed": with_failures(case), "write": write_task(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["use", "keep", "undecided", "none", "failed", "write"])
def test_every_verdict_gives_a_well_formed_page_that_loads_and_runs_nothing(case: Case, kind: str) -> None:
    source = render(every_kind(case)[kind].report())
    assert_inert(source)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in source
    assert "url(" not in source
    assert "@import" not in source
    assert "None" not in Page(source).text
    assert "nan" not in Page(source).text.split()


def test_the_sections_come_in_the_order_a_newcomer_asks(case: Case) -> None:
    ids = [attributes.get("id") for tag, attributes in Page(render(case.report())).elements if tag == "section"]
    wanted = "which why sure cost forgotten table curves labels rows weak sees data settings limits words"
    assert ids == wanted.split()


def test_ids_are_unique_and_links_lead_somewhere(case: Case) -> None:
    elements = Page(render(case.report())).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements:
        if tag == "a":
            assert (attributes["href"] or "")[1:] in ids
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids


def test_every_chart_has_a_title_and_a_description(case: Case) -> None:
    elements = Page(render(case.report())).elements
    pictures = [i for i, (tag, attributes) in enumerate(elements) if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) == 2 * 4 + 3  # four charts drawn wide and narrow, three learning curves
    for i in pictures:
        assert [elements[i + 1][0], elements[i + 2][0]] == ["title", "desc"]


def test_the_verdict_its_doubts_and_its_price_are_said_in_sentences(case: Case) -> None:
    text = Page(render(case.report())).text
    assert "Use sft." in text
    assert "Test confirms the choice" in text
    assert "about 900 more Validation rows would decide" in text
    assert "differences under about 3.4 points cannot be told from luck" in text
    assert "sft is 28 times larger to deploy than lora." in text
    assert "+0.061 bits per byte (+0.048 to +0.073) on 80 general texts" in text
    assert "This ranking holds for smollm2-135m." in text
    assert "base=NAME" in text
    assert "Test was opened once" in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("keep", "Keep it simple: tfidf."),
        ("undecided", "Undecided; lora is the best technique, tfidf scores higher."),
        ("none", "No recommendation."),
    ],
)
def test_other_verdicts_have_their_own_headline(case: Case, verdict: str, words: str) -> None:
    assert words in Page(render(with_verdict(case, verdict).report())).text


def test_a_best_technique_below_what_needs_none_is_not_said_to_look_best() -> None:
    rows: list[Any] = [
        {"label": "lora", "kind": "technique", "validation": {"score": 0.53}},
        {"label": "majority", "kind": "reference", "validation": {"score": 0.55}},
        {"label": "failed", "kind": "imported"},
    ]
    comparison: Any = {"metric": "accuracy", "rows": rows, "recommendation": {"verdict": "undecided", "label": "lora"}}
    assert headline(comparison) == "Undecided; lora is the best technique, majority scores higher."
    rows[1]["validation"]["score"] = 0.53
    assert headline(comparison) == "Undecided; lora looks best so far."


def test_what_the_bare_base_reached_stands_beside_the_difference_to_it() -> None:
    """zero_shot is calibrated to 0.5 and 0.2 above the base as it is: a reader who subtracts must not be puzzled."""
    rows: list[Any] = [
        {"label": "lora", "test": {"score": 0.9}, "versus_base": {"test": {"difference": 0.6}}},
        {"label": "zero_shot", "technique": "zero_shot", "test": {"score": 0.5}},
    ]
    comparison: Any = {"metric": "accuracy", "rows": rows}
    assert bare_base(comparison, "test") == "the base alone: 30.0 %"
    rows[1]["versus_base"] = {"test": {"difference": 0.2}}
    assert bare_base(comparison, "test") == "the base alone, uncalibrated: 30.0 %"
    assert bare_base(comparison, "validation") is None


def test_failed_and_skipped_contestants_stand_in_the_table_with_their_reason(case: Case) -> None:
    text = Page(render(with_failures(case).report())).text
    assert "failed: needs 9.1 GB, 4.0 GB are free: lower limits or use lora" in text
    assert "skipped: an endpoint takes no soft prompts" in text


def test_a_score_that_chance_reaches_is_called_no_better_than_chance() -> None:
    skill = {"majority": 0.083, "zero_shot": 0.1, "lora": 0.9}
    text = Page(render(bank(skill=skill).report())).text
    assert (
        "zero_shot is not shown to be better than chance: always answering the most frequent label gets 8.3 %" in text
    )
    assert "lora is not shown" not in text


def test_opening_test_again_is_held_against_the_figures(case: Case) -> None:
    case = copy.deepcopy(case)
    case.comparison["splits"]["test_openings"] = 3
    case.comparison["lineage"] = 2
    case.row("lora")["after_test"] = True
    text = Page(render(case.report())).text
    assert "Test was opened 3 times" in text
    assert "Made after Test was seen: lora." in text


def spoiled(value: Any, payload: str) -> Any:
    """The same structure with the payload in every free string; words that the program itself chooses from stay."""
    closed = set(
        "technique imported reference done failed skipped use keep undecided none confirmed measured not_applicable "
        "classify accuracy write rouge_l".split()
    )
    if isinstance(value, str):
        return value if value in closed else f"{value}{payload}"
    if isinstance(value, dict):
        return {key: spoiled(item, payload) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spoiled(item, payload) for item in value]
    return value


def hostile(case: Case, payload: str) -> Case:
    case = copy.deepcopy(case)
    case.comparison = spoiled(case.comparison, payload)
    case.comparison["rows"].append({"label": f"f{payload}", "kind": "technique", "state": "failed", "note": payload})
    for name in ("data_facts", "split_facts", "plan", "suspects", "spec_text"):
        setattr(case, name, spoiled(getattr(case, name), payload))
    for place in ("asked", "effective"):
        case.comparison["rows"][0]["settings"][place] = {payload: payload}
    case.data_facts["labels"] = {payload: 3, "b": 1}
    case.data_facts[payload] = {payload: payload}
    case.suspects = [{**found, "row": row} for found, row in zip(case.suspects, case.rows, strict=False)]
    case.rendered = [[(payload, True), (payload, False)]]
    case.rows = {
        row_id: replace(row, place=replace(row.place, file=payload), key=payload, label=payload,
                        messages=(Message(Role.USER, payload), Message(Role.ASSISTANT, payload)))
        for row_id, row in case.rows.items()
    }  # fmt: skip
    case.outcomes = {
        f"{label}{payload}": {
            split: [replace(o, given=f"{o.given}{payload}", expected=f"{o.expected}{payload}") for o in found]
            for split, found in splits.items()
        }
        for label, splits in case.outcomes.items()
    }  # fmt: skip
    case.curves = {f"{label}{payload}": curve for label, curve in case.curves.items()}
    return case


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_in_every_field_stays_text(payload: str) -> None:
    small = bank(n=24)
    source = render(hostile(small, payload).report())
    assert_inert(source)
    if payload.isprintable():
        assert payload in Page(source).text  # a reader sees what the data says
    assert "\x1b" not in source
    assert "\x00" not in source


def test_without_rows_no_text_of_a_row_is_anywhere_in_the_page(case: Case) -> None:
    case = copy.deepcopy(case)
    secret = "the violet submarine sings at noon"
    for row_id, row in case.rows.items():
        case.rows[row_id] = replace(
            row, messages=(Message(Role.USER, f"{secret} {row_id}"), Message(Role.ASSISTANT, row.label or ""))
        )
    case.outcomes["sft"]["validation"][0] = replace(case.outcomes["sft"]["validation"][0], given=f"I say: {secret}")
    case.rendered = [[(secret, True)]]
    case.data_facts["contradictions"][0]["input"] = secret
    case.data_facts["warnings"] = [f"row 3 ('{secret}…') is long"]
    case.row("few_shot")["settings"] = {
        "asked": {},
        "effective": {"examples": [f"{secret} v00001"], "instruction": "x" * 300},
    }
    case.row("lora")["note"] = f"odd row: {secret.title()}, see there"
    case.row("lora")["slices"]["worst"]["name"] = f"input={secret}"
    case.comparison["recommendation"]["reason"] = f"because {secret}"
    case.spec_text = f"data: a.csv  # {secret}"
    shown = render(case.report())
    assert secret in shown
    for hidden in ("none", "no", ""):
        case.rows_shown = hidden
        source = render(case.report())
        for word in ("violet", "submarine"):
            assert word not in source.lower()
        assert "x" * 121 not in source
        assert "no text of any row" in Page(source).text or "without the text of any row" in Page(source).text
        assert "97.3 %" in source  # the figures stay


def test_what_was_asked_and_what_was_effective_stand_side_by_side(case: Case) -> None:
    case.row("lora")["settings"] = {"asked": {"rank": 7}, "effective": {"rank": 7, "epochs": 41}}
    source = render(case.report())
    assert '<th scope="row">rank</th><td>7</td><td>7</td>' in source
    assert '<th scope="row">epochs</th><td></td><td>41</td>' in source


def test_answers_are_grouped_and_disagreement_comes_first(case: Case) -> None:
    from tailorbird.reporting.page.answers import sample

    shown, disagreeing, total = sample(case.report())
    assert total == 300
    assert len(shown) == 64
    spreads = [row.spread for row in shown]
    assert spreads == sorted(spreads, reverse=True)
    assert 0 < disagreeing < total
    first = shown[0]
    assert sum(len(said.labels) for said in first.said) == 8
    assert first.said[0].right


def test_test_rows_are_not_shown_so_that_test_stays_a_test(case: Case) -> None:
    case = copy.deepcopy(case)
    for row_id in [row_id for row_id in case.rows if row_id.startswith("t")]:
        row = case.rows[row_id]
        case.rows[row_id] = replace(row, messages=(Message(Role.USER, "only in Test"), row.messages[-1]))
    assert "only in Test" not in render(case.report())


def test_the_same_input_gives_the_same_bytes(case: Case) -> None:
    assert render(case.report()) == render(copy.deepcopy(case).report())


def test_a_large_run_stays_a_page_one_can_mail() -> None:
    intents = {
        f"intent_number_{i}_of_the_bank": [f"Question {k} about matter {i}, " + "please " * 40 for k in range(4)]
        for i in range(77)
    }
    large = bank(n=2500, intents=intents)
    large.curves = {"sft": [{"step": i, "loss": 1 / (i + 1), "tuning_loss": None} for i in range(20000)]}
    source = render(large.report())
    assert len(source.encode()) < 1_500_000
    assert "the most frequent confusions" in source


def test_a_page_can_be_made_of_almost_nothing() -> None:
    from tailorbird.reporting.page import ReportInput

    comparison = {
        "run": "r", "task": "answer", "metric": "exact_match", "base": {"name": "b"}, "splits": {}, "rows": [],
        "recommendation": {"verdict": "none", "label": None},
    }  # fmt: skip
    source = render(ReportInput(comparison=comparison))
    assert_inert(source)
    assert "No recommendation." in Page(source).text


def test_the_report_is_written_as_utf_8(case: Case, tmp_path: Any) -> None:
    write_report(tmp_path / "report.html", case.report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(case.report())


def test_a_narrow_axis_shows_no_number_twice() -> None:
    assert [signed_tick(v) for v in ticks(-0.012, 0.006, 4)] == ["−0.01", "−0.005", "0", "+0.005"]


def test_ticks_are_round_numbers_inside_the_axis() -> None:
    assert ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.31, 0.02, 4) == [-0.3, -0.2, -0.1, 0.0]
    assert log_ticks(3, 40) == [5, 10, 20]


def test_curves_skip_what_is_not_finite_and_thin_out_long_ones() -> None:
    curve = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": None}]
    assert series(curve, "loss") == [(2.0, 0.5)]
    assert len(thinned([(float(i), 0.0) for i in range(1000)])) <= 240

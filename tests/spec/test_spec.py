"""The spec: short forms, every problem at once with its line, nothing of the text ever run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird import spec
from tailorbird.errors import SafetyError, SpecError, TailorbirdError
from tailorbird.spec import Spec

TWO_LINES = "base: smollm2-135m\ndata: rows.csv\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "try.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> TailorbirdError:
    with pytest.raises(TailorbirdError) as raised:
        spec.load(write(folder, text), overrides)
    return raised.value


def test_two_lines_are_a_whole_spec(tmp_path: Path) -> None:
    loaded = spec.load(write(tmp_path, TWO_LINES))
    assert loaded.base.name == "smollm2-135m"
    assert loaded.data.examples == ["rows.csv"]
    assert loaded.contestants is None
    assert loaded.requirements.margin == 0.02
    assert loaded.run_name == "try"
    assert loaded.path("rows.csv") == tmp_path / "rows.csv"


@pytest.mark.parametrize(
    ("written", "kind", "label", "settings"),
    [
        ("lora", "technique", "lora", {}),
        ("tfidf", "reference", "tfidf", {}),
        ("lora: {rank: 8}", "technique", "lora", {"rank": 8}),
        ("{lora: {rank: 8}, label: small}", "technique", "small", {"rank": 8}),
        ("{technique: lora, label: small, settings: {rank: 8}}", "technique", "small", {"rank": 8}),
        ("lora:", "technique", "lora", {}),
        ("{label: today, answers: today.csv}", "imported", "today", {}),
        ("{label: rules, command: python classify.py}", "imported", "rules", {}),
        ("{label: theirs, adapter: folder}", "imported", "theirs", {}),
    ],
)
def test_every_form_of_a_contestant(tmp_path: Path, written: str, kind: str, label: str, settings: dict) -> None:
    loaded = spec.load(write(tmp_path, f"{TWO_LINES}contestants:\n  - {written}\n"))
    assert loaded.contestants is not None
    (contestant,) = loaded.contestants
    assert (contestant.kind, contestant.label, contestant.settings) == (kind, label, settings)


def test_all_problems_are_reported_at_once_with_line_and_nearest_field(tmp_path: Path) -> None:
    text = "base: x\ndata: {exmples: a.csv}\ntask:\n  kind: classfy\nrequirements:\n  margn: 0.03\nsed: 1\n"
    error = refused(tmp_path, text)
    assert error.exit_code == 2
    assert str(error) == (
        f"{tmp_path / 'try.yaml'}: 5 problems\n"
        "  line 2: data.examples: is needed\n"
        "  line 2: data.exmples: no such field; did you mean `examples`?\n"
        '  line 4: task.kind: "classfy" is not one of classify, answer, write\n'
        "  line 6: requirements.margn: no such field; did you mean `margin`?\n"
        "  line 7: sed: no such field; did you mean `seed`?"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("requirements: {margin: .nan}", "requirements.margin: must be a finite number, is NaN"),
        ("requirements: {margin: 1.5}", "requirements.margin: must be < 1, is 1.5"),
        ("requirements: {margin: '0.1'}", 'requirements.margin: input should be a valid number, is "0.1"'),
        ("seed: true", "seed: input should be a valid integer, is true"),
        ("seed: -1", "seed: must be >= 0, is -1"),
        ("limits: {threads: 0}", "limits.threads: must be >= 1, is 0"),
        ("contestants: []", "contestants"),
        ("contestants: [lora, lora]", "two contestants are called lora"),
        ("contestants: [{label: Big, technique: lora}]", "for example `big`"),
        ("contestants: [{label: ../x, technique: lora}]", "starts with a letter or digit"),
        ("contestants: [{label: nul, technique: lora}]", "cannot be a folder's name on Windows"),
        ("contestants: [{label: a}]", "exactly one of technique, answers, command, adapter, and says neither"),
        ("contestants: [{label: a, technique: lora, rank: 8}]", "contestants.a.rank: no such field"),
        ("name: ../../etc", "starts with a letter or digit"),
        ("version: 2", "version"),
        ("data: {examples: a, columns: {promt: q}}", "is not one of prompt, answer, label"),
        ("base: {endpoint: https://x/v1, model: m}", "no such field"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_field(tmp_path: Path, lines: str, message: str) -> None:
    field = lines.split(":")[0]
    rest = "".join(line + "\n" for line in TWO_LINES.splitlines() if not line.startswith(f"{field}:"))
    error = refused(tmp_path, rest + lines + "\n")
    assert isinstance(error, SpecError)
    assert message in str(error)


def test_numbers_and_words_are_read_as_yaml_1_2_does(tmp_path: Path) -> None:
    text = TWO_LINES + "contestants:\n  - lora: {learning_rate: 1e-4, when: no, day: 2024-01-31, none: ~}\n"
    loaded = spec.load(write(tmp_path, text))
    assert loaded.contestants is not None
    expected = {"learning_rate": 1e-4, "when": "no", "day": "2024-01-31", "none": None}
    assert loaded.contestants[0].settings == expected


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh")
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        TWO_LINES + "task: !!python/object/apply:os.system [touch canary]\n",
        TWO_LINES + "task: !!python/name:os.system ''\n",
        TWO_LINES + "task: !custom {kind: classify}\n",
        TWO_LINES + "task: &loop {kind: *loop}\n",
        TWO_LINES + "task: " + "[" * 100 + "]" * 100 + "\n",
        TWO_LINES + "task: " + "[" * 20_000 + "]" * 20_000 + "\n",
        "base: " + "x" * (1 << 20) + "\n",
    ],
    ids=["alias bomb", "object", "name", "custom tag", "contains itself", "deep", "very deep", "large"],
)
def test_hostile_yaml_is_refused_for_safety(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(tmp_path, text)
    assert isinstance(error, SafetyError)
    assert error.exit_code == 7
    assert [p.name for p in tmp_path.iterdir()] == ["try.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "is not a mapping"),
        ("base: x\nbase: y\n", "`base` is given twice (first on line 1)"),
        ("base: [x\n", "is not YAML"),
        ("base: x\n\tdata: y\n", "is not YAML"),
    ],
)
def test_what_is_not_a_spec_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in str(refused(tmp_path, text))


def test_a_missing_file_and_a_latin_1_file_have_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        spec.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(TWO_LINES.encode() + "task: {instruction: Prüfe}\n".encode("latin-1"))
    with pytest.raises(SpecError, match="save it as UTF-8"):
        spec.load(tmp_path / "latin.yaml")


def test_overrides_reach_every_place(tmp_path: Path) -> None:
    path = write(tmp_path, TWO_LINES + "contestants: [zero_shot, lora]\n")
    overrides = ["requirements.margin=0.05", "data.retention=fast", "contestants.lora.rank=4", "seed=7", "base=other"]
    loaded = spec.load(path, overrides)
    assert loaded.contestants is not None
    assert (loaded.requirements.margin, loaded.data.retention, loaded.seed, loaded.base.name) == (
        0.05,
        "fast",
        7,
        "other",
    )
    assert loaded.contestants[1].settings == {"rank": 4}
    assert spec.load(path, ["contestants=[majority]"]).contestants[0].label == "majority"  # type: ignore[index]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("margin", "key=value"),
        ("contestants.lara.rank=1", "did you mean `lora`?"),
        ("seed.x=1", "no fields of its own"),
    ],
)
def test_an_override_that_reaches_nothing_is_refused(tmp_path: Path, assignment: str, message: str) -> None:
    error = refused(tmp_path, TWO_LINES + "seed: 1\ncontestants: [zero_shot, lora]\n", (assignment,))
    assert message in str(error)


def test_given_lists_what_was_set_and_line_says_where(tmp_path: Path) -> None:
    loaded = spec.load(write(tmp_path, TWO_LINES + "contestants:\n  - lora:\n      rank: 8\n"))
    assert ("contestants", "lora", "rank") in set(loaded.given())
    assert ("requirements", "margin") not in set(loaded.given())
    assert loaded.line(("contestants", "lora", "rank")) == 5
    assert loaded.line(("data", "examples")) == 2


def test_a_spec_made_in_python_equals_the_one_from_a_file(tmp_path: Path) -> None:
    made = Spec(base="smollm2-135m", data="rows.csv", contestants=["lora"])  # type: ignore[arg-type]
    loaded = spec.load(write(tmp_path, TWO_LINES + "contestants: [lora]\n"))
    assert made.document() == loaded.document()


def test_every_field_is_explained() -> None:
    for part in (Spec, spec.BaseSpec, spec.DataSpec, spec.TaskSpec, spec.Contestant, spec.Requirements, spec.Limits):
        assert all(field.description for field in part.model_fields.values()), part


def test_a_file_too_large_for_a_spec_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(SafetyError, match="larger than 1 MiB"):
        spec.load(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
def test_a_device_is_not_begun() -> None:
    with pytest.raises(SafetyError, match="device, pipe or socket"):
        spec.load("/dev/zero")


def test_a_path_no_file_can_have_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("base: x", encoding="utf-8")
    for path in (tmp_path / "file" / "try.yaml", tmp_path / ("x" * 300 + ".yaml"), tmp_path / "a\0b.yaml"):
        with pytest.raises(SpecError) as raised:
            spec.load(path)
        assert raised.value.exit_code == 2

"""What a spec can say: each field with its explanation, default and range. No files, no YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction as DecimalFraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    field_validator,
    model_validator,
)

from tailorbird.errors import SpecError
from tailorbird.spec.problems import Problem, problems_error
from tailorbird.spec.short import expand
from tailorbird.types import Kind

REFERENCES = ("majority", "tfidf")
LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BaseSpec(_Part):
    """The model that is customized."""

    name: str = Field(description="A known name (`tailorbird bases`), a Hub id or a folder.", min_length=1)
    revision: str | None = Field(None, description="Commit or tag of a Hub id.")


Shape = Literal["prompt_completion", "messages", "alpaca", "text_label", "question_answer"]
Columns = dict[
    Literal["prompt", "answer", "label", "system", "context", "id", "group", "weight", "messages"],
    Annotated[str, Field(min_length=1)],
]
Instruction = Annotated[str, Field(min_length=1)]


class _RowFiles(_Part):
    path: str = Field(description="A file, folder or glob of rows.", min_length=1)
    shape: Shape | None = Field(None, description="What a row looks like; detected when left out.")
    columns: Columns = Field(
        default_factory=dict, description="Which column plays which role, where detection is wrong."
    )
    sheet: str | None = Field(
        None, description="The sheet of a workbook that is read; the first that is shown when left out.", min_length=1
    )


class ExampleSource(_RowFiles):
    """One data set of a collection, described by an instruction; its own `shape` and `columns` go before those of
    `data`."""

    name: str | None = Field(
        None, description="What it is called in the scores by source; the name of its file when left out.", min_length=1
    )
    instruction: Instruction | Annotated[list[Instruction], Field(min_length=1)] | None = Field(
        None,
        description="The system message of its rows, behind the task's; of several wordings each row has one, by its "
        "content.",
    )
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="The part of the Train rows that comes from here; sources without it share the rest by their rows.",
    )


class ReplaySpec(_RowFiles):
    """General conversations that trained contestants meet beside their rows, against forgetting."""

    share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        description="The part of the rows of a training that comes from here."
    )


# The tag is no name a field has, so that an error's path can leave it out.
Examples = Annotated[
    Annotated[str, Tag("(path)")] | Annotated[ExampleSource, Tag("(source)")],
    Discriminator(lambda value: "(path)" if isinstance(value, str) else "(source)"),
]


class DataSpec(_Part):
    """Where the rows are and how they are understood."""

    examples: list[Examples] = Field(
        description="Files, folders or globs of rows: CSV, TSV, JSON, JSONL, Parquet, Excel, ODS; or a collection of "
        "data sets, each `{path, instruction, share, …}`.",
        min_length=1,
    )
    replay: ReplaySpec | None = Field(
        None, description="General conversations mixed into training against forgetting: `{path, share}`."
    )
    test: str | None = Field(None, description="A file of Test rows of your own; else Test is split off.")
    validation: str | None = Field(None, description="A file of Validation rows of your own; else it is split off.")
    retention: str = Field(
        "full",
        description="General texts for measuring what was forgotten: `full` or `fast` (built in), or a file of texts. "
        "`fast` also measures drift on fewer prompts.",
        min_length=1,
    )
    shape: Shape | None = Field(None, description="What a row looks like; detected when left out.")
    columns: Columns = Field(
        default_factory=dict, description="Which column plays which role, where detection is wrong."
    )
    sheet: str | None = Field(
        None,
        description="The sheet of the workbooks that is read; the first that is shown when left out.",
        min_length=1,
    )
    supervise: Literal["all", "last"] = Field(
        "all", description="Which assistant turns of a conversation are learned: `all`, or the `last` alone."
    )
    group: str | None = Field(
        None, description="A column whose equal values never straddle two splits (a customer, a case)."
    )
    slices: list[str] = Field(default_factory=list, description="Columns by whose values the scores are also shown.")
    max_bad_share: Fraction = Field(0.01, description="Share of unusable rows above which the run stops.")
    overlap: Literal["refuse", "drop_from_train"] = Field(
        "refuse", description="What to do with training rows that are also in your own `test` or `validation` file."
    )

    @property
    def sources(self) -> tuple[ExampleSource, ...]:
        """The data sets of a collection, all with their names; empty where the examples are files alone."""
        if all(isinstance(one, str) for one in self.examples):
            return ()
        sources = [ExampleSource(path=one) if isinstance(one, str) else one for one in self.examples]
        return tuple(one if one.name else one.model_copy(update={"name": _stem(one.path)}) for one in sources)

    @property
    def paths(self) -> list[str]:
        """Every path of the examples, as written."""
        return [one if isinstance(one, str) else one.path for one in self.examples]

    @model_validator(mode="after")
    def _collection(self) -> DataSpec:
        sources = self.sources
        names = [str(source.name) for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"examples: two sources are called {', '.join(twice)}: give each its own `name`")
        if sources and self.sheet is not None:
            raise ValueError("sheet: in a collection each source names its own `sheet`")
        if sources and "source" in self.slices:
            raise ValueError("slices: `source` is taken: scores of a collection are shown by source anyway")
        for name in ("test", "validation"):
            if sources and getattr(self, name) is not None:
                raise ValueError(f"{name}: is split off in a collection, source by source; leave it out")
        shares = [DecimalFraction(str(source.share)) for source in sources if source.share is not None]
        if shares and len(shares) == len(sources) and sum(shares) != 1:
            raise ValueError(f"examples: the shares are {float(sum(shares)):g} in all, and must be 1")
        if shares and len(shares) < len(sources) and sum(shares) >= 1:
            raise ValueError(
                f"examples: the shares are {float(sum(shares)):g} in all, which leaves nothing for the sources without"
            )
        return self


class TaskSpec(_Part):
    """What is asked and how an answer is judged."""

    kind: Literal["classify", "answer", "write"] | None = Field(
        None,
        description="`classify` one of a few labels, a short `answer`, `write` a text; by the data when left out.",
    )
    instruction: str | None = Field(None, description="The system message, the same for every contestant.")
    labels: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict, description="classify: label in the data → the words that the model says for it."
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        None, description="answer, write: longest answer, in tokens."
    )
    metric: str | None = Field(None, description="The main score; the task's own when left out.")


class Tune(_Part):
    """A search for a contestant's settings, on Train and Tuning rows; `tune: 8` is short for `{trials: 8}`."""

    trials: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None, description="Settings that are tried, the first being the defaults."
    )
    minutes: Positive | None = Field(
        None, description="Minutes for all trials; their number follows from the time of the first."
    )
    over: dict[str, list[float | int | str | bool | None] | None] | None = Field(
        None,
        description="Settings that are searched: `[low, high]` of a number, the choices of all else, or nothing for "
        "the technique's own range. Left out: all for which the technique has one and the spec no value.",
        min_length=1,
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Tune:
        if (self.trials is None) == (self.minutes is None):
            raise ValueError("needs one of trials, minutes")
        return self


class Contestant(_Part):
    """One row of the comparison."""

    label: str = Field(description="Its name in the comparison: lower-case letters, digits, `.`, `_`, `-`.")
    technique: str | None = Field(
        None, description="A technique (`zero_shot`, `lora`, …) or a reference (`majority`, `tfidf`)."
    )
    answers: str | None = Field(
        None, description="A CSV or JSONL file with one answer for each Validation and Test row."
    )
    command: str | None = Field(None, description="A program that reads JSON lines and answers with JSON lines.")
    adapter: str | None = Field(None, description="A PEFT or transformers folder made elsewhere, on this base.")
    timeout_seconds: Positive | None = Field(
        None, description="command: seconds one answer may take (60 when left out)."
    )
    replay: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = Field(
        None, description="Trained ones: the part of `data.replay` in its rows, instead of its `share`; 0 is none."
    )
    after: str | None = Field(
        None,
        description="A technique starts from another customization: the label of a contestant, RUN:LABEL, or a folder "
        "(with a `/`) made on this base.",
        min_length=1,
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="The technique's own settings.")
    tune: Tune | None = Field(None, description="Search for better settings before it is made.")
    seeds: Annotated[int, Field(ge=1, le=50)] = Field(
        1, description="How often it is made, with seed, seed + 1, …; the scores then speak of the technique."
    )
    curve: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1)] | None = Field(
        None,
        description="Percent of the Train rows to learn from, for a curve: would more labels help? It ends with all of "
        "them, 100, given or not.",
    )

    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @property
    def kind(self) -> Kind:
        if self.technique is None:
            return "imported"
        return "reference" if self.technique in REFERENCES else "technique"

    @property
    def lines(self) -> Mapping[str, int]:
        """Line in the spec of each field and setting that was written there."""
        return self._lines

    @field_validator("curve")
    @classmethod
    def _curve(cls, curve: list[int] | None) -> list[int] | None:
        if curve is not None and curve != sorted(set(curve)):
            raise ValueError("shares rise, for example [25, 50, 100]")
        return [*curve, 100] if curve and curve[-1] != 100 else curve

    @field_validator("label")
    @classmethod
    def _label(cls, label: str) -> str:
        return checked_name(label, "label")

    @model_validator(mode="after")
    def _one_source(self) -> Contestant:
        given = [n for n in ("technique", "answers", "command", "adapter") if getattr(self, n) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "says neither of them"
            raise ValueError(f"needs exactly one of technique, answers, command, adapter, and {what}")
        return self


class Requirements(_Part):
    """What must hold for a contestant to be recommended."""

    margin: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        0.02, description="How much worse than the best a cheaper contestant may be and still be as good for you."
    )
    min_score: Fraction | None = Field(None, description="The lower bound of the score must reach this.")
    latency_ms: Positive | None = Field(None, description="p95 of one request alone, in milliseconds.")
    max_forgetting: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="Largest change on general texts, in bits per byte (upper bound)."
    )
    max_deployed_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Largest size that must be deployed beyond the base, in MB."
    )


class Limits(_Part):
    """What a run may use."""

    minutes: Positive | None = Field(None, description="Estimated minutes above which the run refuses to start.")
    memory_gb: Positive | None = Field(
        None, description="Memory a contestant may need; by default what the machine has."
    )
    threads: Count | None = Field(None, description="CPU threads; by default the physical cores.")


class SplitSpec(_Part):
    """Rows in each part; left out: by the number of rows, shown by `check`."""

    train: Count | None = Field(None, description="Rows that a technique may learn from or show in a prompt.")
    tuning: Count | None = Field(
        None, description="Rows held out of training: early stopping, prompt search, calibration."
    )
    validation: Count | None = Field(None, description="Rows for the choice among contestants.")
    test: Count | None = Field(None, description="Rows opened once, after the choice.")


class ReportSpec(_Part):
    """What the page may contain."""

    rows: Literal["sample", "none"] = Field(
        "sample", description="`none`: no text of any row in the page (it gets mailed)."
    )


class Spec(_Part):
    """A whole run. `base` and `data` are enough; everything else has a default that is shown."""

    version: Literal[1] = Field(1, description="Version of this format.")
    name: str | None = Field(None, description="Name of the run and its folder; the spec file's name when left out.")
    base: BaseSpec = Field(description="The model that is customized.")
    data: DataSpec = Field(description="The rows.")
    task: TaskSpec = Field(default_factory=TaskSpec, description="What is asked and how an answer is judged.")
    contestants: Annotated[list[Contestant], Field(min_length=1)] | None = Field(
        None,
        description="What is compared. Left out: majority, tfidf, zero_shot, few_shot, lora, and sft if memory allows.",
    )
    requirements: Requirements = Field(default_factory=Requirements, description="What must hold to be recommended.")
    limits: Limits = Field(default_factory=Limits, description="What a run may use.")
    split: SplitSpec = Field(default_factory=SplitSpec, description="Rows in each part.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Every random choice derives from it.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where models run.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Compute type; `auto` asks a probe.")
    report: ReportSpec = Field(default_factory=ReportSpec, description="What the page may contain.")

    _source: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, document: Any) -> Any:
        return expand(document) if isinstance(document, Mapping) else document

    @field_validator("name")
    @classmethod
    def _name(cls, name: str | None) -> str | None:
        return None if name is None else checked_name(name, "name")

    @model_validator(mode="after")
    def _labels_differ(self) -> Spec:
        labels = [c.label for c in self.contestants or ()]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two contestants are called {', '.join(twice)}: give each its own `label`")
        return self

    @property
    def source(self) -> Path | None:
        """The file it was read from; None for a spec made in Python."""
        return self._source

    @property
    def folder(self) -> Path:
        """What relative paths in the spec are relative to."""
        return self._source.parent if self._source else Path.cwd()

    @property
    def text(self) -> str:
        """The file as written; for a spec made in Python, the same content as JSON (which is YAML, too)."""
        return self._text or json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n"

    @property
    def run_name(self) -> str:
        if self.name:
            return self.name
        stem = self._source.stem if self._source else self.base.name.rsplit("/", 1)[-1]
        return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "run"

    def document(self) -> dict[str, Any]:
        """All fields with their effective values, as JSON."""
        return self.model_dump(mode="json")

    def path(self, text: str) -> Path:
        """A path of the spec, resolved against the spec's folder."""
        return self.folder / Path(text).expanduser()

    def given(self) -> Iterator[tuple[str, ...]]:
        """The path of every field that was set, leaves only; contestants by label: ('contestants', 'lora', 'rank')."""
        yield from _set_fields(self)

    def line(self, path: Sequence[str]) -> int | None:
        """Line of a field, or of the nearest field around it."""
        return next((self._lines[p] for n in range(len(path), 0, -1) if (p := ".".join(path[:n])) in self._lines), None)

    def error(self, problems: Sequence[Problem]) -> SpecError:
        """All problems as one error."""
        return problems_error(problems, str(self._source) if self._source else None)


def _stem(path: str) -> str:
    """The name of a file without its ending, of a folder, or of what stands before a glob."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..") and not set(part) & set("*?[")]
    return (Path(parts[-1]).stem if parts else path) or path


def checked_name(name: str, what: str) -> str:
    """A name that may be a folder's everywhere. ValueError says what is wrong with it."""
    if not LABEL.fullmatch(name):
        near = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64]
        hint = f", for example `{near}`" if LABEL.fullmatch(near) else ""
        raise ValueError(
            f"a {what} has 1-64 lower-case letters, digits, `.`, `_`, `-` and starts with a letter or digit{hint}"
        )
    if name.split(".")[0] in _WINDOWS_DEVICES:
        raise ValueError(f"`{name}` cannot be a folder's name on Windows")
    return name


def _set_fields(part: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in (n for n in type(part).model_fields if n in part.model_fields_set):
        value = getattr(part, name)
        if name == "contestants":
            for contestant in value or ():
                yield from _set_fields(contestant, (*path, name, contestant.label))
        elif isinstance(value, BaseModel):
            yield from _set_fields(value, (*path, name))
        elif name == "settings":
            yield from ((*path, setting) for setting in value)
        elif value is not None:
            yield (*path, name)

"""Python: `run` a spec, look at the comparison, `load` a customization. The same folders and files as the commands."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.errors import DataError, SpecError
from tailorbird.events import Events, Listener
from tailorbird.spec import Spec, build
from tailorbird.spec import load as load_spec
from tailorbird.types import JSON, Answer, Message, Request, Role, Stop

if TYPE_CHECKING:
    from tailorbird.answerers.local import LocalAnswerer

ConversationLike = str | Sequence[Mapping[str, str]]


class View(Mapping[str, Any]):
    """A part of comparison.json whose fields are attributes, too: `row.test.score`."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value

    def __getitem__(self, name: str) -> Any:
        return _view(self._value[name])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {', '.join(map(str, self._value))}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._value!r})"


def _view(value: Any) -> Any:
    return View(value) if isinstance(value, dict) else value


class Comparison:
    """A finished run: its rows by label, the recommendation, the folder. Shows itself in a notebook."""

    def __init__(self, folder: Path, value: JSON) -> None:
        self.folder, self._value = Path(folder), value

    @property
    def rows(self) -> list[View]:
        """Best first; failed and skipped ones last."""
        from tailorbird.reporting.contestants import in_order

        return [View(row) for row in in_order(self._value)]

    def __getitem__(self, label: str) -> View:
        for row in self._value["rows"]:
            if row["label"] == label:
                return View(row)
        raise KeyError(f"{label!r}; there is {', '.join(self.labels)}")

    def __iter__(self) -> Iterator[View]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self._value["rows"])

    @property
    def labels(self) -> list[str]:
        return [row["label"] for row in self._value["rows"]]

    @property
    def recommendation(self) -> View:
        return View(self._value.get("recommendation") or {})

    @property
    def best(self) -> View | None:
        """The recommended row; None where none is recommended (`recommendation.reason` says why)."""
        label = (self._value.get("recommendation") or {}).get("label")
        return self[label] if label is not None else None

    @property
    def report(self) -> Path:
        """The offline page."""
        return self.folder / "report.html"

    def load(self, label: str | None = None) -> Model:
        """The customization of a row, the recommended one when `label` is left out."""
        return load(f"{self.folder}:{label}" if label else self.folder)

    def as_dict(self, *, stable: bool = False) -> JSON:
        """comparison.json; `stable`: without what differs between equal runs (times, memory)."""
        from tailorbird.measure.comparison import stable as without_times

        return without_times(self._value) if stable else self._value

    def __repr__(self) -> str:
        from tailorbird.reporting.verdict import headline

        return f"<Comparison of {len(self)} contestants in {self.folder}: {headline(self._value)}>"

    def _repr_html_(self) -> str:
        """The ranked table, self-contained; every text is escaped."""
        from tailorbird.reporting.tables import markdown_numbers
        from tailorbird.reporting.verdict import headline

        heads = ("contestant", "Validation", "Test", "to best", "forgets", "latency", "size", "training")
        recommendation = self._value.get("recommendation") or {}
        style = "padding:2px 10px;text-align:right;white-space:nowrap"
        body = []
        for row in self.rows:
            chosen = row["label"] in (recommendation.get("label"), recommendation.get("kept"))
            cells = [row["label"], *markdown_numbers(dict(row._value), self._value)]
            weight = ";font-weight:bold" if chosen else ""
            body.append(
                "<tr>" + "".join(f'<td style="{style}{weight}">{html.escape(str(c))}</td>' for c in cells) + "</tr>"
            )
        head = "".join(f'<th style="{style}">{h}</th>' for h in heads)
        reason = html.escape(str(recommendation.get("reason") or ""))
        return (
            f"<p><b>{html.escape(headline(self._value))}</b> {reason}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f"<p>{html.escape(str(self.report))}</p>"
        )


def run(
    spec: str | Path | Spec | None = None,
    *overrides: str,
    runs: str | Path = "runs",
    fork: bool = False,
    progress: bool = True,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> Comparison:
    """Runs a spec, or goes on where it stopped, or returns at once what is finished.

    `spec`: a path, a Spec, or left out with the spec's fields as keywords (`base=…, data=…`). `overrides`: texts as on
    the command line (`"requirements.margin=0.03"`). `progress`: the live view on stderr.
    """
    from contextlib import ExitStack

    from tailorbird.running import run_spec

    asked = _spec(spec, overrides, fields)
    with ExitStack() as stack:
        events = Events(*listeners)
        if progress:
            from tailorbird.reporting.live import LiveView

            events.listeners.append(stack.enter_context(LiveView()))
        finished = run_spec(asked, runs=Path(runs), fork=fork, events=events, stop=stop)
    return Comparison(finished.folder, finished.comparison)


def _spec(spec: str | Path | Spec | None, overrides: Sequence[str], fields: Mapping[str, Any]) -> Spec:
    from tailorbird.plan import wrong_settings

    if isinstance(spec, Spec):
        if overrides or fields:
            raise SpecError("a Spec is taken as it is", remedy="change the Spec, or give a path with overrides")
        return spec
    if spec is not None:
        if fields:
            raise SpecError(f"unknown arguments {', '.join(fields)}", remedy='overrides are texts: "seed=1"')
        return load_spec(spec, overrides, check=wrong_settings)
    return build(fields, overrides=overrides, check=wrong_settings)


class Label(str):
    """A label id with `scores` (label → log-probability, nats) and `confidence`."""

    scores: Mapping[str, float]
    confidence: float

    def __new__(cls, answer: Answer) -> Label:
        self = super().__new__(cls, answer.label or answer.text)
        self.scores = dict(answer.scores or {})
        self.confidence = answer.confidence if answer.confidence is not None else float("nan")
        return self


class Text(str):
    """An answer with `stop` (why it ended) and `tokens` (how many were generated)."""

    stop: Stop
    tokens: int

    def __new__(cls, answer: Answer) -> Text:
        self = super().__new__(cls, answer.text)
        self.stop, self.tokens = answer.stop, answer.answer_tokens or 0
        return self


class Model:
    """A customization, verified when it was opened; it answers as it was measured."""

    def __init__(self, answerer: LocalAnswerer, folder: Path) -> None:
        self._answerer, self.folder = answerer, folder

    @property
    def labels(self) -> list[str]:
        """The label ids it chooses among; empty unless the task is classify."""
        return list(self._answerer.parts.decode.labels)

    def classify(self, texts: Sequence[ConversationLike] | str) -> list[Label]:
        """One label for each text or conversation."""
        if not self.labels:
            raise SpecError("this customization has no labels", where=str(self.folder), remedy="use generate")
        candidates = tuple(self.labels)
        requests = [Request(str(n), turns, candidates) for n, turns in enumerate(_conversations(texts))]
        return [Label(answer) for answer in self._answerer.answer(requests)]

    def generate(self, conversations: Sequence[ConversationLike] | str, max_new_tokens: int = 128) -> list[Text]:
        """One written answer for each conversation, greedily."""
        if max_new_tokens < 1:
            raise SpecError(f"max_new_tokens must be at least 1, is {max_new_tokens}")
        turns = _conversations(conversations)
        requests = [Request(str(n), t, max_new_tokens=max_new_tokens) for n, t in enumerate(turns)]
        return [Text(answer) for answer in self._answerer.answer(requests)]

    def score(self, conversations: Sequence[ConversationLike] | str, answers: Sequence[str] | str) -> list[float]:
        """Sum of log-probabilities of each answer and its end, nats."""
        turns = _conversations(conversations)
        said = [answers] if isinstance(answers, str) else list(answers)
        if len(turns) != len(said):
            raise DataError(f"{len(turns)} conversations and {len(said)} answers", remedy="give one answer for each")
        return self._answerer.score(turns, said)

    def close(self) -> None:
        self._answerer.close()

    def __repr__(self) -> str:
        return f"<Model {self.folder}>"


def load(run: str | Path) -> Model:
    """Opens RUN[:LABEL] (`runs/help-desk:lora`); without LABEL the recommended customization. Verified, or refused."""
    from tailorbird.running.opening import choose

    chosen = choose(run)
    return Model(chosen.open(), chosen.folder)


def _conversations(given: Sequence[ConversationLike] | str) -> list[tuple[Message, ...]]:
    """Conversations as our messages; a plain string is one user turn. A single conversation need not be in a list."""
    if isinstance(given, str) or (given and isinstance(given[0], Mapping)):
        given = [given]  # type: ignore[list-item]
    return [_conversation(one, number) for number, one in enumerate(given)]


def _conversation(one: Any, number: int) -> tuple[Message, ...]:
    if isinstance(one, str):
        return (Message(Role.USER, one),)
    try:
        turns = tuple(Message(Role(turn["role"]), turn["content"]) for turn in one)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"conversation {number} is not a list of {{'role', 'content'}}: {error}",
            remedy="roles are system, user, assistant; a plain string stands for one user turn",
        ) from None
    if not turns or turns[-1].role is Role.ASSISTANT or not all(isinstance(t.content, str) for t in turns):
        raise DataError(f"conversation {number} must end with a user turn and hold text only")
    return turns

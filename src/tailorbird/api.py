"""Python: `run` a spec, look at the comparison, `load` a customization. The same folders and files as the commands."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tailorbird.errors import SpecError
from tailorbird.events import Events, Listener
from tailorbird.loading import Label, Model, Table, Text, load, load_table
from tailorbird.spec import Spec, build
from tailorbird.spec import load as load_spec
from tailorbird.types import JSON

__all__ = ["Comparison", "Label", "Model", "Spec", "Table", "Text", "View", "load", "load_table", "run"]


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

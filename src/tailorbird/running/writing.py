"""What a run hands out: data facts, comparison.json, suspects.csv, the page, a view and a card of each contestant."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tailorbird import store
from tailorbird.measure.comparison import Record, build
from tailorbird.measure.recommend import on_test
from tailorbird.measure.suspects import suspects
from tailorbird.running import sealing
from tailorbird.running.folder import RunFolder
from tailorbird.running.material import Material
from tailorbird.running.workshop import Work, Workshop
from tailorbird.types import JSON, Outcome, Row

SUSPECTS = "suspects.csv"
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_data(folder: RunFolder, material: Material) -> None:
    """data/: what was read, what was not and why, which row is in which split."""
    from tailorbird.data import manifest

    place = folder.path / "data"
    store.write_json(place / "facts.json", material.data_facts)
    store.write_json(place / "splits.json", {"facts": material.split_facts, "rows": manifest(material.splits)})
    replayed = (material.replayed.dataset,) if material.replayed else ()
    datasets = (material.dataset, *material.given.values(), *replayed)
    store.write_jsonl(place / "rejected.jsonl", (record for d in datasets for record in d.rejected_records()))


def write_all(shop: Workshop, works: Sequence[Work], sealed: sealing.Seal) -> JSON:
    """Everything but the mark that the run is finished."""
    folder = shop.folder
    after = folder.after_test(sealed.key, sealing.keys(works), sealing.test_rows(shop))
    records = [sealing.record(shop, work, after_test=after.get(work.label, False)) for work in works]
    comparison = compare(shop, records, sealed)
    found = suspects_of(records)
    write_suspects(folder, found, rows_of(shop))
    for work, record in zip(works, records, strict=True):
        write_view(shop, work, record, comparison)
    store.write_json(folder.comparison, comparison)
    page(shop, works, records, comparison, found)
    return comparison


def compare(shop: Workshop, records: Sequence[Record], sealed: sealing.Seal) -> JSON:
    plan, material = shop.plan, shop.material
    test = {r.label: r.outcomes("test") for r in records if r.outcomes("test")}
    claimed = {c.a for c in sealed.recommendation.claims} | {c.b for c in sealed.recommendation.claims}
    verdict = on_test(sealed.recommendation, test) if claimed <= test.keys() else None
    rows = sealing.test_rows(shop)
    openings = shop.folder.openings(sealed.key, rows) if test else 0
    return build(
        run=shop.folder.path.name,
        task=plan.task["kind"],
        metric=plan.task["metric"],
        base={
            "name": material.base.name,
            "fingerprint": material.base.fingerprint,
            "parameters": material.base.parameters,
            "licence": material.base.licence,
        },
        splits={
            **material.sizes,
            "overlap": material.split_facts.get("overlap", 0),
            "test_openings": openings,
        },
        requirements=dict(plan.requirements),
        records=records,
        recommendation=sealed.recommendation,
        on_test=verdict,
        sealed_at=sealed.sealed_at,
        lineage=shop.folder.lineage(sealed.key),
    )


def suspects_of(records: Sequence[Record]) -> list[JSON]:
    """Rows of Validation and Test whose label all good contestants contradict with one answer."""
    scores = {r.label: r.measurements["validation"].score for r in records if r.outcomes("validation")}
    found = []
    for split in ("validation", "test"):
        outcomes = {r.label: r.outcomes(split) for r in records if r.outcomes(split)}
        found += [{**s, "split": split} for s in suspects(outcomes, scores)]
    return found


def rows_of(shop: Workshop) -> dict[str, Row]:
    splits = shop.material.splits
    return {row.id: row for row in (*splits.validation, *splits.test)}


def write_suspects(folder: RunFolder, found: Sequence[JSON], rows: Mapping[str, Row]) -> None:
    """suspects.csv; a cell that a spreadsheet would run as a formula gets a leading quote."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "line", "input", "label", "suggested", "confidence", "contestants", "split"])
    for s in found:
        row = rows[s["row"]]
        sure = "" if s.get("confidence") is None else f"{s['confidence']:.3f}"
        cells = [
            row.place.file,
            row.place.line,
            row.input_text,
            s["label"],
            s["suggested"],
            sure,
            " ".join(s["contestants"]),
        ]
        writer.writerow([inert(cell) for cell in (*cells, s["split"])])
    store.write_text(folder.path / SUSPECTS, text.getvalue())


def count_suspects(folder: Path) -> int:
    """Rows in the suspects.csv of a run's folder; 0 where there is none."""
    if not (folder / SUSPECTS).is_file():
        return 0
    csv.field_size_limit(LONGEST_CELL)
    with open(folder / SUSPECTS, encoding="utf-8", newline="") as file:
        return max(0, sum(1 for _ in csv.reader(file)) - 1)


def inert(cell: Any) -> Any:
    """Text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def write_view(shop: Workshop, work: Work, record: Record, comparison: JSON) -> None:
    """contestants/LABEL.json, and the scores and the card beside a customization."""
    row = next(r for r in comparison["rows"] if r["label"] == work.label)
    view = {"label": work.label, "steps": dict(work.keys), "artifact": record.artifact, "row": row}
    store.write_json(shop.folder.path / "contestants" / f"{work.label}.json", view)
    if work.artifact is not None and work.state == "done":
        from tailorbird.running.card import card

        if row["after"] and Path(row["after"]).is_absolute():
            # These two are handed on, and where it lay on this machine is nobody's business.
            row = {**row, "after": Path(row["after"]).name}
        store.write_json(work.artifact / "scores.json", row)
        store.write_text(work.artifact / "README.md", card(row, comparison, shop.plan))


def page(
    shop: Workshop, works: Sequence[Work], records: Sequence[Record], comparison: JSON, found: Sequence[JSON]
) -> None:
    from tailorbird.reporting.page import write_report
    from tailorbird.reporting.page.input import ReportInput

    material, spec = shop.material, shop.material.spec
    outcomes: dict[str, dict[Any, Sequence[Outcome]]] = {
        r.label: {split: r.outcomes(split) for split in ("validation", "test") if r.outcomes(split)} for r in records
    }
    curves = {}
    for work in works:
        log = shop.steps.folder / work.keys.get("customize", "-") / "log.jsonl"
        if log.is_file() and (lines := store.read_jsonl(log)):
            curves[work.label] = lines
    write_report(
        shop.folder.report,
        ReportInput(
            comparison=comparison,
            rows=rows_of(shop),
            outcomes={label: splits for label, splits in outcomes.items() if splits},
            data_facts=material.data_facts,
            split_facts=material.split_facts,
            plan=asdict(shop.plan),
            curves=curves,
            suspects=found,
            spec_text=spec.text,
            rows_shown=shop.plan.report_rows,
            rendered=material.rendered(),
            folder=str(shop.folder.path),
            spec_path=str(spec.source) if spec.source else None,
        ),
    )

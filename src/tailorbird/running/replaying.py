"""The general conversations that trainings meet against forgetting: read, and without what must not be learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.errors import DataError
from tailorbird.plan import Reading
from tailorbird.running.room import RowCheck
from tailorbird.spec import Spec
from tailorbird.types import Replay, Splits

if TYPE_CHECKING:
    from tailorbird.data import Dataset


@dataclass(frozen=True)
class Replayed:
    """`rows` may be met; `left_out` counts those that may not, by reason."""

    path: str
    share: float
    dataset: Dataset
    rows: Replay
    left_out: dict[str, int]

    def part(self, train: int, share: float, seed: int) -> Replay:
        """As many rows as are `share` of them and `train` rows together; repeated when there are too few."""
        from tailorbird.data import replay_rows, take

        return Replay(take(self.rows.rows, replay_rows(train, share), seed, "replay"))

    def as_dict(self) -> dict[str, Any]:
        facts = self.dataset.facts
        return {
            "path": self.path,
            "share": self.share,
            "accepted": facts.accepted,
            "rejected": sum(facts.rejected.values()),
            "usable": len(self.rows),
            **{f"left_out_as_{why}": count for why, count in self.left_out.items()},
            "shape": facts.shape,
        }


def read_replay(
    spec: Spec,
    how: Reading,
    splits: Splits,
    check: RowCheck,
) -> Replayed:
    from tailorbird import data
    from tailorbird.measure.drift import drift_prompts
    from tailorbird.measure.forgetting import load_retention

    assert how.replay is not None
    path, named = how.replay["path"], spec.data.retention
    dataset = data.read(
        [path],
        root=spec.folder,
        shape=how.replay["shape"],
        columns=how.replay["columns"] or None,
        sheet=how.replay["sheet"],
        max_bad_share=how.max_bad_share,
        supervise=how.supervise,
    )
    short = [row for row in dataset.rows if check(row) is None]  # long talk is common, and no fault of the file
    retention = load_retention(named if named in ("full", "fast") else spec.path(named))
    measured = [*retention.texts, *(prompt.text for prompt in drift_prompts())]
    held_out = [*splits.tuning, *splits.validation, *splits.test]
    rows, left_out = data.usable(short, held_out=held_out, measured=measured)
    left_out = {"too_long": len(dataset.rows) - len(short), **left_out}
    if not rows:
        raise DataError(
            f"none of its {len(dataset.rows):,} rows can be met in training: {left_out['too_long']:,} are longer than "
            f"the context, {left_out['held_out']:,} say what a held-out row says, {left_out['measured_on']:,} what "
            "forgetting is measured on",
            where=f"data.replay: {path}",
            remedy="name other general conversations",
        )
    return Replayed(path, how.replay["share"], dataset, Replay(rows), left_out)

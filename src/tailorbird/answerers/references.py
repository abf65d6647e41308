"""References for classify: what knowing nothing scores, and what counting words scores. No language model.

Both see Train only (Tfidf chooses one number on Tuning) and answer with the log of their label shares, so that
confidence, calibration and coverage mean the same as for a model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tailorbird.errors import DataError
from tailorbird.tasks.task import label_of
from tailorbird.types import Answer, Conversation, Request, Role, Row, Train, Tuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

C_GRID = (1.0, 3.0, 10.0, 30.0)  # rising: each fit starts where the one before ended, which halves the time
C_UNTUNED = 10.0  # without Tuning rows
_FLOOR = 1e-9  # probability of a label that Train has no row of: its log must be finite


class Majority:
    """Always the commonest label of Train; of equally common ones the first in the task's order."""

    def __init__(self, train: Train, labels: Mapping[str, str] | Sequence[str]) -> None:
        _refuse_other_splits(train)
        counts = _weights_by_label(train)
        total = math.fsum(counts.values())
        self.labels = tuple(labels)
        self.shares = {label: counts.get(label, 0.0) / total for label in self.labels}
        self.label = max(self.labels, key=lambda label: self.shares[label])
        self.scores = {label: math.log(max(share, _FLOOR)) for label, share in self.shares.items()}

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            yield Answer(request.id, self.label, self.label, self.scores, self.shares[self.label])

    def cost_facts(self) -> dict[str, float | int | None]:
        """To deploy is the label alone."""
        return _costs(flops=0.0, deployed=len(self.label.encode()), parameters=0)


class Tfidf:
    """Words and word pairs weighted by TF-IDF, and a logistic regression: often hard to beat, and nearly free.

    `settings` says what was used: C was chosen on Tuning by accuracy, then by log-loss; `analyzer` is "char_wb" (one
    to three characters) where Train has no word of two letters.
    """

    def __init__(self, train: Train, labels: Mapping[str, str] | Sequence[str], tuning: Tuning | None = None) -> None:
        _refuse_other_splits(train)
        if tuning is not None and not isinstance(tuning, Tuning):
            raise TypeError(f"C is chosen on Tuning, not on {type(tuning).__name__}")
        if len(_weights_by_label(train)) < 2:
            raise DataError(
                "tfidf needs training rows of at least two labels, there is one",
                where="train",
                remedy="add rows of another label, or leave tfidf out of the contestants",
            )
        self.labels = tuple(labels)
        texts = [text_of(row.prompt) for row in train]
        self._vectorizer, features, analyzer = _vectorize(texts)
        rows, weights = [label_of(row) for row in train], [row.weight for row in train]
        held_out = list(tuning or ())
        grid = C_GRID if held_out else (C_UNTUNED,)
        fitted = _fit(features, rows, weights, grid)
        chosen = min(grid, key=lambda c: self._tuning_loss(fitted[c], held_out)) if held_out else C_UNTUNED
        self._model = fitted[chosen]
        self._nonzero = features.nnz / features.shape[0]
        self.settings: dict[str, Any] = {
            "C": chosen,
            "C_chosen_on": "tuning" if held_out else None,
            "analyzer": analyzer,
        }

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        asked = list(requests)
        if not asked:
            return
        probabilities = self._probabilities(self._model, [text_of(r.messages) for r in asked])
        for request, of_label in zip(asked, probabilities, strict=True):
            label = max(of_label, key=lambda name: of_label[name])
            scores = {name: math.log(max(p, _FLOOR)) for name, p in of_label.items()}
            yield Answer(request.id, label, label, scores, of_label[label])

    def cost_facts(self) -> dict[str, float | int | None]:
        """FLOPs: two a label for each non-zero feature of a mean Train row. Deployed: the arrays and the vocabulary."""
        weights: NDArray[Any] = self._model.coef_
        arrays = weights.nbytes + self._model.intercept_.nbytes + self._vectorizer.idf_.nbytes
        vocabulary = sum(len(term.encode()) + 1 for term in self._vectorizer.vocabulary_)
        return _costs(
            flops=2.0 * self._nonzero * weights.shape[0],
            deployed=int(arrays + vocabulary),
            parameters=int(weights.size + self._model.intercept_.size),
        )

    def _probabilities(self, model: Any, texts: Sequence[str]) -> list[dict[str, float]]:
        """One dict a text, labels in the task's order; a label unknown to Train has probability 0."""
        table = model.predict_proba(self._vectorizer.transform(texts))
        known = {str(label): column for column, label in enumerate(model.classes_)}
        return [{label: float(row[known[label]]) if label in known else 0.0 for label in self.labels} for row in table]

    def _tuning_loss(self, model: Any, rows: Sequence[Row]) -> tuple[float, float]:
        """(share of errors, log-loss): less is better; the smaller C goes before, as it comes first in the grid."""
        probabilities = self._probabilities(model, [text_of(row.prompt) for row in rows])
        wrong, loss = 0, 0.0
        for row, of_label in zip(rows, probabilities, strict=True):
            wrong += max(of_label, key=lambda name: of_label[name]) != row.label
            loss -= math.log(max(of_label.get(label_of(row), 0.0), _FLOOR))
        return wrong / len(rows), loss / len(rows)


def text_of(messages: Conversation) -> str:
    """What is read: every turn but the system's, which is the same for all rows or part of a prompt."""
    return "\n".join(m.content for m in messages if m.role is not Role.SYSTEM)


def _vectorize(texts: Sequence[str]) -> tuple[Any, Any, str]:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    try:
        return words, words.fit_transform(texts), "word"
    except ValueError:  # "empty vocabulary": no word of two letters or more
        characters = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True, analyzer="char_wb", dtype=np.float32)
        return characters, characters.fit_transform(texts), "char_wb"


def _fit(features: Any, labels: Sequence[str], weights: Sequence[float], grid: Sequence[float]) -> dict[float, Any]:
    """C -> fitted model, in the order of the grid."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000, warm_start=True)
    fitted = {}
    for c in grid:
        fitted[c] = copy.deepcopy(model.set_params(C=c).fit(features, labels, sample_weight=weights))
    return fitted


def _refuse_other_splits(train: Train) -> None:
    if not isinstance(train, Train):
        raise TypeError(f"a reference learns from Train, not from {type(train).__name__}")
    if not len(train):
        raise DataError("there are no training rows", where="train", remedy="give more rows, or smaller other splits")


def _weights_by_label(train: Train) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in train:
        label = label_of(row)
        sums[label] = sums.get(label, 0.0) + row.weight
    return sums


def _costs(*, flops: float, deployed: int, parameters: int) -> dict[str, float | int | None]:
    return {
        "prompt_tokens": None,
        "flops_per_request": flops,
        "deployed_bytes": deployed,
        "trainable_parameters": parameters,
    }

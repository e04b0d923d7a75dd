"""What any embedding must beat: logistic regression on one-hot fields, and the past rate of each item.

Legend: `E` examples, `V` values of a field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from models.compression.layouts import Field
from models.metrics.binary import log_loss
from pipelines.compression.examples import Part, SplitExamples

Floats = npt.NDArray[np.float64]

REGULARISATIONS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse strengths tried by `logistic_regression`."""
PRIOR_EXAMPLES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Numbers of examples at the mean rate tried by `popularity_prior`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineResult:
    """The member of a family with the least validation log loss, and what it predicts."""

    setting: float
    validation_log_loss: float
    test_E: Floats
    """Probabilities of the test part."""
    bytes: int
    """Of the fitted numbers, in float32."""


def logistic_regression(split: SplitExamples) -> BaselineResult:
    """Fit L2-regularised logistic regression on one column per value; values never seen have none."""
    train, validation, test = (_one_hot(split.fields, part) for part in (split.train, split.validation, split.test))

    def predictions(strength: float) -> tuple[Floats, Floats]:
        model = LogisticRegression(C=strength, max_iter=500)
        model.fit(train, split.train.label_E)
        return model.predict_proba(validation)[:, 1], model.predict_proba(test)[:, 1]

    return _best(split, REGULARISATIONS, predictions, bytes_=(train.shape[1] + 1) * 4)


def popularity_prior(split: SplitExamples, item_field: str) -> BaselineResult:
    """Predict `(positives + n * rate) / (examples + n)` of the example's item, `rate` that of the training part.

    Args:
        split: The examples.
        item_field: The field that names the item.
    """
    field = next(field for field in split.fields if field.name == item_field)
    train_E, *others = (field.numbers(part.columns[item_field]) for part in (split.train, split.validation, split.test))
    shown_V = np.bincount(train_E, minlength=len(field.values_V) + 1)
    liked_V = np.bincount(train_E, weights=split.train.label_E, minlength=len(shown_V))

    def predictions(examples: float) -> tuple[Floats, Floats]:
        rate_V = (liked_V + examples * split.train.label_E.mean()) / (shown_V + examples)
        return rate_V[others[0]], rate_V[others[1]]

    return _best(split, PRIOR_EXAMPLES, predictions, bytes_=len(shown_V) * 4)


def _best(
    split: SplitExamples,
    settings: Sequence[float],
    predictions: Callable[[float], tuple[Floats, Floats]],
    bytes_: int,
) -> BaselineResult:
    found = []
    for setting in settings:
        validation_E, test_E = predictions(setting)
        loss = log_loss(validation_E, split.validation.label_E)
        found.append(BaselineResult(setting=setting, validation_log_loss=loss, test_E=test_E, bytes=bytes_))
    return min(found, key=lambda result: result.validation_log_loss)


def _one_hot(fields: Sequence[Field], part: Part) -> csr_matrix:
    columns, start = [], 0
    for field in fields:
        number_E = field.numbers(part.columns[field.name])
        columns.append(np.where(number_E > 0, start + number_E - 1, -1))
        start += len(field.values_V)
    column_EF = np.stack(columns, axis=1)
    known_EF = column_EF >= 0
    starts = np.concatenate([[0], np.cumsum(known_EF.sum(axis=1))])
    ones = np.ones(int(starts[-1]), dtype=np.float64)
    return csr_matrix((ones, column_EF[known_EF], starts), shape=(len(column_EF), start))

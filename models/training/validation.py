"""The pages on which a training measures itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features.schemas import VALIDATION
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.training.streams import CASES


def validation_cases(
    workspace: Workspace,
    catalogue: Catalogue,
    *,
    pages: int,
    max_history: int,
    seed: int,
    progress: Callable[[str], None],
) -> EvaluationCases | None:
    """Return a sample of the validation pages, None where there are none.

    Args:
        workspace: Holds `sequences`.
        catalogue: Numbers the items.
        pages: Largest sample.
        max_history: Newest history entries per page.
        seed: Of the run; the sample has a stream of its own.
        progress: Told why there is no sample.
    """
    try:
        cases = requests_from_sequences(workspace, catalogue, VALIDATION, max_history=max_history)
    except ValueError as error:
        progress(f"no validation, the last weights will be used: {error}")
        return None
    rng = np.random.default_rng([seed, CASES])
    return cases.take(np.sort(rng.choice(len(cases), min(len(cases), pages), replace=False)))

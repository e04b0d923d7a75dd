"""The pages a study measures on."""

from __future__ import annotations

import numpy as np

from features.workspace import Workspace
from models.recommend.catalogue import catalogue_of
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.tokenizer.bundle import Bundle


def study_cases(workspace: Workspace, split: str, *, max_history: int, most: int, seed: int) -> EvaluationCases:
    """Return the cases of a split in the newest semantic IDs' numbers, at most `most` of them, drawn by the seed."""
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    cases = requests_from_sequences(workspace, catalogue, split, max_history=max_history)
    drawn = np.random.default_rng(seed).choice(len(cases), min(len(cases), most), replace=False)
    return cases.take(np.sort(drawn))

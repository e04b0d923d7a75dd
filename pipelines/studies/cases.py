"""The pages a study measures on, and the trained GenRec that answers them."""

from __future__ import annotations

import numpy as np

from features.workspace import Workspace
from models.genrec.config import DecodeConfig
from models.recommend.catalogue import catalogue_of
from models.recommend.genrec_retriever import GenRecRetriever
from models.recommend.requests import EvaluationCases, requests_from_sequences
from models.tokenizer.bundle import Bundle
from models.training.genrec_run import load_genrec
from models.training.two_tower_run import load_two_tower


def study_cases(workspace: Workspace, split: str, *, max_history: int, most: int, seed: int) -> EvaluationCases:
    """Return the cases of a split in the newest semantic IDs' numbers, at most `most` of them, drawn by the seed."""
    catalogue = catalogue_of(Bundle.load(workspace), workspace)
    cases = requests_from_sequences(workspace, catalogue, split, max_history=max_history)
    drawn = np.random.default_rng(seed).choice(len(cases), min(len(cases), most), replace=False)
    return cases.take(np.sort(drawn))


def study_retriever(workspace: Workspace, run: str, decode: DecodeConfig) -> GenRecRetriever:
    """Return a GenRec run as a retriever, with the two-tower it was trained with if it was trained with one."""
    model, trained = load_genrec(workspace, run)
    catalogue = catalogue_of(Bundle.load(workspace, trained.generation), workspace)
    users = None if trained.two_tower is None else load_two_tower(workspace, trained.two_tower)[0]
    return GenRecRetriever(model, catalogue, decode, users)

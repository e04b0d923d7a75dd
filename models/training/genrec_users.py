"""The users that GenRec's pages start from: a two-tower run's vectors, where `GenRecConfig.user_prefix` wants them."""

from __future__ import annotations

import dataclasses

import numpy as np

from features.schemas import TRAIN
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from models.genrec.config import GenRecConfig
from models.genrec.data import SequenceData
from models.recommend.requests import requests_from_sequences
from models.training.two_tower_run import load_two_tower
from models.two_tower.model import TwoTower


def newest_users(workspace: Workspace, config: GenRecConfig) -> tuple[TwoTower | None, str | None]:
    """Return the newest two-tower model and its run's name, nothing for a GenRec without `user_prefix`.

    Raises:
        MissingRunError: There is no two-tower run.
        ValueError: Its vectors have another width.
    """
    if not config.user_prefix:
        return None, None
    users, run = load_two_tower(workspace)
    if users.width != config.user_prefix:
        raise ValueError(
            f"genrec.user_prefix: expected {users.width}, the width of the vectors of two-tower run {run.name}, got "
            f"{config.user_prefix}; set it to {users.width}, or to 0 to go without"
        )
    return users, run.name


def with_users(workspace: Workspace, catalogue: Catalogue, data: SequenceData, users: TwoTower | None) -> SequenceData:
    """Return the training pages with the user of each as of just before it; as they are without a two-tower model.

    Args:
        workspace: Holds `sequences` and the features of pages.
        catalogue: Numbers the items.
        data: The training pages of the same sequences.
        users: The two-tower model, or None.
    """
    if users is None:
        return data
    cases = requests_from_sequences(workspace, catalogue, TRAIN, max_history=users.net.config.max_history)
    assert np.array_equal(cases.requests.times_B, data.page_times), "both list the pages that have a positive item"
    return dataclasses.replace(data, user_vectors=users.user_vectors(cases.requests, catalogue))

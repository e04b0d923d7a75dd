"""The two-tower retriever on planted vectors: nearest first, and only what index and catalogue both hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from planted_encoder import PlantedEncoder
from recommend_cases import batch

from features.semantic_ids import Catalogue
from models.recommend.catalogue import plain_catalogue
from models.recommend.interface import NO_ITEM
from models.recommend.two_tower_retriever import TwoTowerRetriever
from models.recommend.vector_index import VectorIndex
from models.recommend.vector_index_config import IndexConfig

IDS = [f"item{number:02d}" for number in range(10)]
ENCODER = PlantedEncoder(10)


def retriever_for(catalogue: Catalogue, encoder: PlantedEncoder = ENCODER) -> TwoTowerRetriever:
    return TwoTowerRetriever.build(encoder, ENCODER.item_vectors(), IDS, catalogue, IndexConfig())


def test_nearest_items_first_with_their_cosine() -> None:
    found = retriever_for(plain_catalogue(IDS)).retrieve(batch([[7, 4], []], excluded=[[4], []]), 3)
    # item 5 is 1.1 tenths of the circle away from item 4, item 3 only 0.9, items 2 and 6 both 2
    assert found.items_BK[:, :2].tolist() == [[3, 5], [0, 9]]
    tenth = 2 * math.pi / 10
    np.testing.assert_allclose(found.scores_BK[0], np.cos(tenth * np.array([0.9, 1.1, 2])), rtol=1e-5)
    assert found.items_BK[0, 2] in (2, 6)
    np.testing.assert_allclose(found.scores_BK[1], np.cos(tenth * np.array([0, 0.9, 1.1])), rtol=1e-5)
    assert found.source == "two_tower"


def test_items_are_numbered_as_the_catalogue_does() -> None:
    backwards = plain_catalogue(IDS[::-1])
    found = retriever_for(backwards).retrieve(batch([[backwards.numbers(["item04"])[0]]]), 3)
    assert backwards.ids(found.items_BK[0]) == ["item04", "item03", "item05"]


def test_items_unknown_to_the_index_or_the_catalogue_are_passed_over() -> None:
    catalogue = plain_catalogue([*IDS[:3], "item20", *IDS[5:]])
    requests = batch([[2], [3]], excluded=[[1, 1, 3], []])
    built = retriever_for(catalogue)
    assert len(built.index) == 8
    whole = TwoTowerRetriever(ENCODER, VectorIndex.build(ENCODER.item_vectors(), IndexConfig()), IDS, catalogue)
    for retriever in (built, whole):
        found = retriever.retrieve(requests, 10)
        # around item 2: item 1 is excluded, items 3 and 4 are not in the catalogue; item 9 is 2.9 away, item 5 is 3.1
        assert catalogue.ids(found.items_BK[0, :4]) == ["item02", "item00", "item09", "item05"]
        assert [(row != NO_ITEM).sum() for row in found.items_BK] == [7, 8]
        assert 3 not in found.items_BK  # `item20` has no vector


def test_a_release_keeps_index_and_ids() -> None:
    catalogue = plain_catalogue(IDS)
    built = retriever_for(catalogue)
    again = TwoTowerRetriever(ENCODER, VectorIndex.from_bytes(built.index.to_bytes()), built.item_ids, catalogue)
    requests = batch([[7, 4], [], [2]], excluded=[[4], [], list(range(9))])
    for ours, theirs in zip(built.retrieve(requests, 4).items_BK, again.retrieve(requests, 4).items_BK, strict=True):
        assert ours.tolist() == theirs.tolist()
    with pytest.raises(ValueError, match="one item id per entry, 10, got 9"):
        TwoTowerRetriever(ENCODER, built.index, IDS[:9], catalogue)


def test_nothing_is_said_about_users_of_whom_nothing_is_known() -> None:
    retriever = retriever_for(plain_catalogue(IDS), PlantedEncoder(10, knows_strangers=False))
    found = retriever.retrieve(batch([[], [4], []], excluded=[[2], [3], []]), 2)
    assert found.items_BK.tolist() == [[NO_ITEM] * 2, [4, 5], [NO_ITEM] * 2]
    assert np.isneginf(found.scores_BK[[0, 2]]).all()
    assert retriever.retrieve(batch([[], []]), 2).items_BK.tolist() == [[NO_ITEM] * 2] * 2


def test_vectors_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="none of its 10 items is among the 2 of the catalogue"):
        retriever_for(plain_catalogue(["a", "b"]))
    with pytest.raises(ValueError, match="one id per row, 10, got 3"):
        TwoTowerRetriever.build(ENCODER, ENCODER.item_vectors(), IDS[:3], plain_catalogue(IDS), IndexConfig())

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from models.tokenizer.collaborative import (
    collaborative_vectors,
    cooccurrence,
    fit_regression,
    from_vectors,
    ppmi,
    training_items,
)

IDS = pa.array(["a", "b", "c"])


def test_only_positive_training_events_of_known_items_count() -> None:
    sequences = pa.table(
        {
            "split": ["train", "test", "train"],
            "items": [["a", "b", "c"], ["a", "b"], ["c", "x", "b"]],
            "events": pa.array([[3, 0, 1], [3, 3], [2, 3, 4]], pa.list_(pa.int8())),
        }
    )
    users, numbers = training_items(sequences, IDS)
    # b was only shown (0) and disliked (4), x is unknown, the second row is test
    assert users.tolist() == [0, 0, 1]
    assert numbers.tolist() == [0, 2, 2]


def test_cooccurrence_ends_at_the_user_and_the_window() -> None:
    users, numbers = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 2, 0])
    counts = cooccurrence(users, numbers, items=3, window=1).toarray()
    # a-b and b-a next to each other for user 0, c-a for user 1; user 0's last and user 1's first are strangers
    assert counts.tolist() == [[0, 2, 1], [2, 0, 0], [1, 0, 0]]


def test_ppmi_by_hand() -> None:
    counts = sp.csr_array(np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    context = np.array([3.0, 2.0, 1.0]) ** 0.75
    share = context / context.sum()
    expected = math.log((2 / 3) / share[1])  # P(b | a) / P(b)
    assert ppmi(counts)[0, 1] == pytest.approx(expected)
    assert ppmi(counts)[1, 2] == 0


def test_items_of_one_crowd_get_near_vectors_and_strangers_none() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.integers(0, 2, 200)
    numbers = np.concatenate([group * 5 + rng.permutation(5) for group in crowd])
    counts = cooccurrence(np.repeat(np.arange(200), 5), numbers, items=11, window=4)
    vectors, warm = collaborative_vectors(counts, dimensions=2, seed=0)
    assert warm.tolist() == [True] * 10 + [False]
    cosine = vectors @ vectors.T
    assert cosine[:5, :5].min() > 0.9
    assert abs(cosine[:5, 5:10]).max() < 0.1


def test_vectors_made_elsewhere_are_put_in_order() -> None:
    vectors = np.eye(3, dtype=np.float32)
    found = from_vectors(vectors, pa.array(["c", "x", "a"]), IDS)
    assert found.warm_N.tolist() == [True, False, True]
    assert found.vectors_NK[found.warm_N].tolist() == vectors[[2, 0]].tolist()
    with pytest.raises(ValueError, match="expected vectors of the 3 items, got 1 of other items"):
        from_vectors(vectors[:1], pa.array(["x"]), IDS)


def test_regression_finds_a_linear_truth() -> None:
    rng = np.random.default_rng(0)
    content = rng.normal(size=(5000, 6)).astype(np.float32)
    truth = rng.normal(size=(6, 3)).astype(np.float32)
    np.testing.assert_allclose(fit_regression(content, content @ truth), truth, atol=2e-3)

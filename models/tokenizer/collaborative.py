"""Collaborative vectors: which items the same people want, from training sequences or the two-tower model's.

Legend: `N` items, `D` width of a content vector, `K` width of a collaborative vector.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from features.schemas import POSITIVE_CODES, TRAIN
from models.tokenizer.content import Floats, unit_rows

SMOOTHING = 0.75
"""Power of the context frequencies in PMI (Levy, Goldberg and Dagan, 2015): rare contexts are worth less."""
RIDGE = 1.0
"""L2 penalty of the regression for cold items; rows have length 1, so this is one item's worth of evidence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collaborative:
    """The collaborative vectors of some items.

    Attributes:
        vectors_NK: Rows of length 1, of any value where there is none.
        warm_N: Which items have one.
    """

    vectors_NK: Floats
    warm_N: npt.NDArray[np.bool_]


def from_sequences(
    sequences: pa.Table, item_ids: pa.Array, *, window: int, dimensions: int, seed: int
) -> Collaborative:
    """Return co-occurrence vectors; items without a training co-occurrence have none.

    Args:
        sequences: Columns split, items, events of the table `sequences`.
        item_ids: `N` ids.
        window: Items of one user at most this many places apart co-occur.
        dimensions: Width `K`.
        seed: Of the decomposition.

    Raises:
        ValueError: There are fewer than two positive training events of these items.
    """
    users, numbers = training_items(sequences, item_ids)
    if len(numbers) < 2:
        raise ValueError(
            "collaborative_dimensions: expected training sequences with positive events of known items, got "
            f"{len(numbers)} such events; set collaborative_dimensions to 0"
        )
    counts_NN = cooccurrence(users, numbers, len(item_ids), window)
    vectors_NK, warm_N = collaborative_vectors(counts_NN, dimensions, seed)
    return Collaborative(vectors_NK=vectors_NK, warm_N=warm_N)


def from_vectors(vectors_MK: Floats, their_ids: pa.Array, item_ids: pa.Array) -> Collaborative:
    """Return vectors made elsewhere in the order of `item_ids`.

    Args:
        vectors_MK: `M` rows of length 1.
        their_ids: `M` ids.
        item_ids: `N` ids; those that have no vector are not warm.

    Raises:
        ValueError: None of the items has a vector.
    """
    places_N = np.asarray(pc.fill_null(pc.index_in(item_ids, value_set=their_ids), -1), np.int64)
    if not (places_N >= 0).any():
        raise ValueError(
            f"collaborative: expected vectors of the {len(item_ids)} items, got {len(their_ids)} of other items; train "
            "the two-tower model on these items (`pagewise train two-tower`)"
        )
    return Collaborative(vectors_NK=vectors_MK[places_N], warm_N=places_N >= 0)


def training_items(sequences: pa.Table, item_ids: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (user row, item number) of each positive event of the training split, in the order of the sequences.

    Args:
        sequences: Columns split, items, events of the table `sequences`.
        item_ids: Ids whose positions are the item numbers; events of other items are left out.
    """
    rows = sequences.filter(pc.equal(sequences["split"], TRAIN)).combine_chunks()
    lengths = np.asarray(pc.fill_null(pc.list_value_length(rows["items"]), 0), np.int64)
    users = np.repeat(np.arange(rows.num_rows), lengths)
    numbers = np.asarray(pc.fill_null(pc.index_in(pc.list_flatten(rows["items"]), value_set=item_ids), -1), np.int64)
    positive = np.isin(np.asarray(pc.list_flatten(rows["events"])), POSITIVE_CODES)
    kept = positive & (numbers >= 0)
    return users[kept], numbers[kept]


def cooccurrence(users: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], items: int, window: int) -> sp.csr_array:
    """Return the symmetric `[N, N]` matrix that adds 1 / distance for two different items of one user within `window`.

    Example:
        >>> users, numbers = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2])
        >>> cooccurrence(users, numbers, items=3, window=2).toarray().tolist()
        [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.0]]
    """
    total = sp.csr_array((items, items), dtype=np.float64)
    for distance in range(1, window + 1):
        first, second = numbers[:-distance], numbers[distance:]
        together = (users[:-distance] == users[distance:]) & (first != second)
        weights = np.full(int(together.sum()), 1 / distance)
        total = total + sp.csr_array((weights, (first[together], second[together])), (items, items))
    return total + total.T


def ppmi(counts_NN: sp.csr_array) -> sp.csr_array:
    """Return the positive part of log P(i, j) / (P(i) P(j)^0.75), zero where two items never co-occur."""
    entries = counts_NN.tocoo()
    row_N = counts_NN.sum(axis=1)
    context_N = row_N**SMOOTHING
    context_N = context_N / context_N.sum()
    first, second = entries.coords
    information = np.log(entries.data / (row_N[first] * context_N[second]))
    positive = information > 0
    return sp.csr_array((information[positive], (first[positive], second[positive])), counts_NN.shape)


def collaborative_vectors(counts_NN: sp.csr_array, dimensions: int, seed: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return `[N, K]` vectors of length 1 (U sqrt(S) of the PPMI matrix) and which items have one.

    `K` is `dimensions`, or less where there are fewer items.
    """
    associations = ppmi(counts_NN)
    left_NK, singular_K, _ = randomized_svd(
        associations, min(dimensions, counts_NN.shape[0]), n_iter=7, random_state=seed
    )
    warm_N = np.diff(associations.indptr) > 0
    return unit_rows(left_NK * np.sqrt(singular_K)), warm_N


def fit_regression(content_ND: Floats, collaborative_NK: Floats) -> Floats:
    """Return the `[D, K]` ridge regression that guesses a collaborative vector from a content vector."""
    gram_DD = content_ND.T @ content_ND + RIDGE * np.eye(content_ND.shape[1], dtype=np.float32)
    return np.asarray(np.linalg.solve(gram_DD, content_ND.T @ collaborative_NK), np.float32)

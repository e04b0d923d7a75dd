"""Trie of semantic IDs: compressed sparse rows, and beside them a dense table for levels that are nearly full.

Legend: `S` distinct semantic IDs, `L` levels, `C` codes of a level.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NO_NODE = -1
"""A beam that holds no valid prefix; its score is `-inf`."""
FULL = 0.25
"""Share of a level's codes that its nodes must use for a dense table, which then takes at most 16 bytes per child."""


@dataclasses.dataclass(frozen=True)
class TrieLevel:
    """The edges from the nodes of one depth to the nodes of the next, which are numbered in lexicographic order.

    ::

        node            0        1     2
        child_offsets [ 0        3     4      6 ]      node n owns children [offsets[n], offsets[n + 1])
        codes         [ 0  2  5  1     0  7     ]      the code on the edge to each child, increasing per node
        leaf_bounds   [ 0  4  5  8     9  ...   ]      child c covers the sorted IDs [bounds[c], bounds[c + 1])

    Attributes:
        child_offsets: int32, number of nodes of this depth + 1.
        codes: int32, one entry per node of the next depth.
        leaf_bounds: int32, number of nodes of the next depth + 1.
        branching: Largest number of children of one node.
        table: int32, number of nodes of this depth x C, the child under each code or `NO_NODE`; None where the level is
            not `FULL`. First levels are: there a step over all codes, without indices, is the cheapest.
    """

    child_offsets: Tensor
    codes: Tensor
    leaf_bounds: Tensor
    branching: int
    table: Tensor | None


@dataclasses.dataclass(frozen=True)
class Trie:
    """All levels; a node of the last depth is the row of its semantic ID in the sorted list."""

    levels: tuple[TrieLevel, ...]
    leaves: int

    @classmethod
    def from_sorted(cls, sids_SL: npt.NDArray[np.integer], device: torch.device | str = "cpu") -> Trie:
        """Build from distinct semantic IDs in lexicographic order, one vectorised pass per level.

        Args:
            sids_SL: Codes, shape `[S, L]`.
            device: Where the index lives.

        Raises:
            ValueError: Empty, unsorted or repeated IDs.
        """
        if sids_SL.ndim != 2 or not len(sids_SL):
            raise ValueError(f"sids: expected shape [S >= 1, L], got {sids_SL.shape}")
        new_SL = _new_prefixes(sids_SL)
        levels = []
        bounds = np.array([0, len(sids_SL)], dtype=np.int32)
        for level in range(sids_SL.shape[1]):
            starts = np.flatnonzero(new_SL[:, level])
            offsets = np.searchsorted(starts, bounds).astype(np.int32)
            bounds = np.append(starts, len(sids_SL)).astype(np.int32)
            codes = sids_SL[starts, level].astype(np.int32)
            levels.append(
                TrieLevel(
                    child_offsets=torch.from_numpy(offsets).to(device),
                    codes=torch.from_numpy(codes).to(device),
                    leaf_bounds=torch.from_numpy(bounds).to(device),
                    branching=int(np.diff(offsets).max()),
                    table=None if (table := _table(offsets, codes)) is None else torch.from_numpy(table).to(device),
                )
            )
        return cls(levels=tuple(levels), leaves=len(sids_SL))

    @property
    def nbytes(self) -> int:
        """Memory of the index."""
        return sum(
            part.nbytes
            for level in self.levels
            for part in (level.child_offsets, level.codes, level.leaf_bounds, level.table)
            if part is not None
        )


def _new_prefixes(sids_SL: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Mark where the first `l + 1` codes of an ID differ from those of the ID before."""
    changed = sids_SL[1:] != sids_SL[:-1]
    new_SL = np.ones(sids_SL.shape, dtype=bool)
    new_SL[1:] = np.logical_or.accumulate(changed, axis=1)
    first, rows = np.argmax(changed, axis=1), np.arange(len(changed))
    if not new_SL[:, -1].all() or (sids_SL[1:][rows, first] < sids_SL[:-1][rows, first]).any():
        raise ValueError("sids: expected distinct rows in lexicographic order; sort them with numpy.unique")
    return new_SL


def _table(offsets: npt.NDArray[np.int32], codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
    nodes, width = len(offsets) - 1, int(codes.max()) + 1
    if len(codes) < FULL * nodes * width:
        return None
    table = np.full((nodes, width), NO_NODE, dtype=np.int32)
    table[np.repeat(np.arange(nodes), np.diff(offsets)), codes] = np.arange(len(codes), dtype=np.int32)
    return table

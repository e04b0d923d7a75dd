"""Which id has which row: TorchRec's sorted table of admitted ids, with its history and its loading mended."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    LRU_EvictionPolicy,
    MCHEvictionPolicy,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor

from kernels.hashing import GOLDEN, MULTIPLY_1, MULTIPLY_2

POLICIES: dict[str, type[MCHEvictionPolicy]] = {
    "lfu": LFU_EvictionPolicy,
    "lru": LRU_EvictionPolicy,
    "distance_lfu": DistanceLFU_EvictionPolicy,
}
"""By their names in `CollisionConfig.eviction`."""
FREE = torch.iinfo(torch.int64).max
"""In place of an id: the row is free. Mixed ids are below."""


def mix_ids(ids_v: Tensor) -> Tensor:
    """Spread int64 ids evenly over 0 <= id < 2**63 - 1: the upper 63 bits of `kernels.hashing.reference_mix`.

    Processes own equal ranges of mixed ids. Ids as they come would mostly go to one of them.

    Example:
        >>> mix_ids(torch.tensor([1, 2, -1])).tolist()
        [5225608189600411232, 5452762862878174055, 8245168133484221968]
    """
    words = ids_v + _signed(GOLDEN)
    words = (words ^ _shifted(words, 30)) * _signed(MULTIPLY_1)
    words = (words ^ _shifted(words, 27)) * _signed(MULTIPLY_2)
    return _shifted(words ^ _shifted(words, 31), 1).clamp_max(FREE - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift right as unsigned numbers are."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


class Admission(MCHManagedCollisionModule):
    """Gives ids that come often rows of their own, in place of ids that no longer come.

    ::

        _mch_sorted_raw_ids        [ 12  70  95 | FREE FREE ]   ids that have a row
        _mch_remapped_ids_mapping  [  2   0   1 |    3    4 ]   which one; the last is for all other ids

    Two things differ from TorchRec's: a batch larger than the first does not lose its last ids, and rows read into
    the live buffers from a checkpoint of more processes (sorted per process) are sorted before they are searched.
    """

    _input_history_buffer_size: int
    _history_accumulator: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._own_segments = self._output_segments_tensor.clone()
        self._seen_version = self._mch_sorted_raw_ids._version

    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """Note the ids of a training step, and every `eviction_interval` steps admit and evict."""
        self._notice_loading()
        if self.training:
            self._make_room(features)
        features = super().profile(features)
        self._seen_version = self._mch_sorted_raw_ids._version
        return features

    def remap(self, features: dict[str, JaggedTensor], *args: Any, **options: Any) -> dict[str, JaggedTensor]:
        """Replace ids by rows."""
        self._notice_loading()
        remapped: dict[str, JaggedTensor] = super().remap(features, *args, **options)
        return remapped

    def validate_state(self) -> None:
        """Check, after a checkpoint was read, that its ids can be found here, and make them so.

        Raises:
            ValueError: Ids were spread over fewer processes, so that some lie on a process that is not asked for them.
        """
        start = self._output_global_offset
        segments = set(self._output_segments_tensor.tolist())
        if not {start, start + self._zch_size} <= segments:
            raise ValueError(
                f"managed collisions: expected a checkpoint with a shard boundary at rows {start} and "
                f"{start + self._zch_size}, got boundaries {sorted(segments - {-1})}; ids stay on the process they "
                "were admitted on: go on with the same number of processes or one that divides it"
            )
        self._output_segments_tensor.copy_(self._own_segments)
        for metadata in self._mch_metadata.values():
            # the shared last row of every former process had the highest rank
            metadata[self._mch_sorted_raw_ids == FREE] = 0
        self._sort_mch_buffers()
        self._seen_version = self._mch_sorted_raw_ids._version
        self._current_iter, self._current_history_buffer_offset, self._evicted = -1, 0, False

    def _notice_loading(self) -> None:
        """Checkpoints are read into live tensors without a word; their version tells."""
        if self._mch_sorted_raw_ids._version != self._seen_version:
            self.validate_state()

    def _make_room(self, features: dict[str, JaggedTensor]) -> None:
        if self._input_history_buffer_size == -1:
            self._init_history_buffers(features)
        needed = self._current_history_buffer_offset + sum(part.values().numel() for part in features.values())
        if needed <= self._input_history_buffer_size:
            return
        size = max(needed, 2 * self._input_history_buffer_size)
        self._history_accumulator = _lengthened(self._history_accumulator, size)
        for name, values in self._history_metadata.items():
            self._history_metadata[name] = _lengthened(values, size)
            setattr(self, f"_history_{name}", self._history_metadata[name])
        self._input_history_buffer_size = size


def _lengthened(values: Tensor, size: int) -> Tensor:
    return torch.cat([values, values.new_zeros(size - len(values))])

"""Give semantic IDs to new items without touching a published one.

Legend: `M` new items, `L` levels, `D` width of a vector.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tokenizer.balance import capacity
from models.tokenizer.bundle import Bundle
from models.tokenizer.quantizer import Codes, Floats
from models.tokenizer.report import code_usage


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NewCodes:
    """Semantic IDs of items that a bundle does not hold.

    Attributes:
        items: Their `M` rows, in order of their ids.
        codes_ML: Their codes.
        vectors_MD: What was quantised.
        collided: New items whose ID is also another item's.
        overflow: Per level (the extra level last, where there is one), items beyond what a code was built to hold:
            reported, not prevented. When they become many, build a new generation.
    """

    items: pa.Table
    codes_ML: Codes
    vectors_MD: Floats
    collided: int
    overflow: list[int]


def encode_new(bundle: Bundle, items: pa.Table) -> NewCodes:
    """Encode those items that the bundle does not hold, with its encoder and nearest codes.

    Args:
        bundle: All items that have codes already.
        items: Rows of the items table.

    Raises:
        ValueError: A new item occurs twice.
    """
    new = _new_items(bundle, items)
    if not new.num_rows:
        nothing = np.empty((0, len(bundle.config.codes_per_level)), np.int32)
        none_over = [0] * len(bundle.config.codes_per_level)
        return NewCodes(
            items=new, codes_ML=nothing, vectors_MD=np.empty((0, 0), np.float32), collided=0, overflow=none_over
        )
    vectors_MD = bundle.encoder.encode(new)
    codes_ML = bundle.quantizer.encode(vectors_MD)
    over_L = _beyond_capacity(bundle, codes_ML)
    if bundle.config.extra_level:
        codes_ML, beyond = _numbered(bundle, codes_ML)
        over_L.append(beyond)
    collided = _collided(bundle.codes_NL, codes_ML)
    return NewCodes(items=new, codes_ML=codes_ML, vectors_MD=vectors_MD, collided=collided, overflow=over_L)


def _new_items(bundle: Bundle, items: pa.Table) -> pa.Table:
    known_M = pc.is_in(items["item_id"], value_set=bundle.item_ids)
    new = items.filter(pc.invert(known_M)).sort_by("item_id").combine_chunks()
    if new.num_rows != len(pc.unique(new["item_id"])):
        raise ValueError("items to append: expected distinct item_id, got some twice; validate the items table")
    return new


def _beyond_capacity(bundle: Bundle, codes_ML: Codes) -> list[int]:
    """Return, per level, how many new items came to a code above the capacity it was built with."""
    config = bundle.config
    if config.balance_slack is None:
        return [0] * config.levels
    room = capacity(int(bundle.manifest["items"]), config.codes, config.balance_slack)
    before_LC = code_usage(bundle.codes_NL[:, : config.levels], config.codes)
    after_LC = before_LC + code_usage(codes_ML, config.codes)
    over_L = np.maximum(after_LC - np.maximum(before_LC, room), 0).sum(axis=1)
    return [int(over) for over in over_L]


def _numbered(bundle: Bundle, codes_ML: Codes) -> tuple[Codes, int]:
    """Add the extra level: the next free number of each ID; return also how many IDs had none left (last number)."""
    last = bundle.config.codes - 1
    next_number = Counter(map(tuple, bundle.codes_NL[:, : bundle.config.levels].tolist()))
    numbers, beyond = [], 0
    for sid in map(tuple, codes_ML.tolist()):
        beyond += next_number[sid] > last
        numbers.append(min(next_number[sid], last))
        next_number[sid] += 1
    return np.column_stack([codes_ML, np.array(numbers, np.int32)]), beyond


def _collided(codes_NL: Codes, codes_ML: Codes) -> int:
    both = np.concatenate([codes_NL, codes_ML])
    _, id_of_item, sizes = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    return int((sizes[id_of_item.reshape(-1)[len(codes_NL) :]] > 1).sum())

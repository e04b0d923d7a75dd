"""Give semantic IDs to new items without touching a published one.

Legend: `M` new items, `L` levels.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.workspace import MANIFEST, Workspace
from models.tokenizer.balance import capacity
from models.tokenizer.bundle import APPENDS, CODES, ROOT, VECTORS, Bundle, codes_file, json_file, vectors_file
from models.tokenizer.quantizer import Codes
from models.tokenizer.report import code_usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppendReport:
    """What an append did."""

    generation: str
    number: str | None
    """Name of the delta; None where no item was new."""
    appended: int
    already_known: int
    collided: int
    """New items whose ID is also another item's."""
    overflow: list[int]
    """Per level (the extra level last, where there is one), items beyond what a code was built to hold: reported, not
    prevented. When they become many, build a new generation."""

    def lines(self) -> list[str]:
        """Return the report as lines for the terminal."""
        return [
            f"semantic IDs {self.generation}: {self.appended} items appended, {self.already_known} already known",
            f"{self.collided} of them share an ID; items beyond capacity per level: "
            f"{' / '.join(map(str, self.overflow))}",
        ]


def append_items(workspace: Workspace, generation: str | None, items: pa.Table) -> AppendReport:
    """Encode new items with the published encoder and nearest codes, as the generation's next numbered delta.

    One writer at a time. Items that the bundle holds already are left as they are.

    Args:
        workspace: Where the bundle lies.
        generation: Its name; None for the newest.
        items: Rows of the items table.

    Raises:
        ValueError: A new item occurs twice.
    """
    bundle = Bundle.load(workspace, generation)
    new = _new_items(bundle, items)
    codes_ML = np.empty((0, len(bundle.config.codes_per_level)), np.int32)
    number, over_L = None, [0] * len(bundle.config.codes_per_level)
    if new.num_rows:
        number = f"{bundle.appends + 1:06d}"
        vectors_MD = bundle.encoder.encode(new)
        codes_ML = bundle.quantizer.encode(vectors_MD)
        over_L = _beyond_capacity(bundle, codes_ML)
        if bundle.config.extra_level:
            codes_ML, beyond = _numbered(bundle, codes_ML)
            over_L.append(beyond)
    report = AppendReport(
        generation=bundle.generation,
        number=number,
        appended=new.num_rows,
        already_known=items.num_rows - new.num_rows,
        collided=_collided(bundle.codes_NL, codes_ML),
        overflow=over_L,
    )
    if number is not None:
        folder = (ROOT, bundle.generation, APPENDS, number)
        workspace.write_bytes(codes_file(new["item_id"].combine_chunks(), codes_ML), *folder, CODES)
        workspace.write_bytes(vectors_file(vectors_MD), *folder, VECTORS)
        workspace.write_bytes(json_file(dataclasses.asdict(report)), *folder, MANIFEST)
    return report


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

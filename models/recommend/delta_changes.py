"""Append items to a release's catalogue, withdraw them, and take what one release's deltas say over to another.

Codes come from the release's own encoder and nearest codes, vectors from its own item tower; no published ID moves, and
no model is trained.
Legend: `M` new items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import ITEMS
from features.workspace import Workspace, conform
from models.inputs.items import item_columns
from models.recommend.delta_files import (
    Changes,
    Delta,
    DeltaManifest,
    Floats,
    now,
    read_deltas,
    together,
    write_delta,
)
from models.recommend.release_manifest import ReleaseManifest, read_manifest
from models.recommend.release_parts import FACT_COLUMNS, TWO_TOWER
from models.tokenizer.append import NewCodes, encode_new
from models.tokenizer.bundle import Bundle
from models.training.two_tower_run import load_two_tower

CLEAN_ITEMS = "clean_items"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaReport:
    """What a command changed."""

    release_id: str
    delta: DeltaManifest | None
    """None where there was nothing to change."""
    already: int
    """Items that are as asked for already."""
    unknown: tuple[str, ...] = ()
    """Items to withdraw that the release does not have."""

    def lines(self) -> list[str]:
        """Return the report as lines for the terminal."""
        lines = [f"release {self.release_id}: nothing to change, {self.already:,} items are so already"]
        if self.delta is not None:
            lines = [*_delta_lines(self.delta), f"{self.already:,} items were so already"]
        if self.unknown:
            some = ", ".join(map(repr, self.unknown[:5])) + (" ..." if len(self.unknown) > 5 else "")
            lines.append(f"{len(self.unknown):,} ids are not in the release, nothing was withdrawn for them: {some}")
        return lines


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """A release's items with its deltas.

    Attributes:
        bundle: Ids and codes of all items, the deltas' included.
        deltas: In order.
        changes: What they come to; None without deltas.
    """

    release: Path
    manifest: ReleaseManifest
    bundle: Bundle
    deltas: Sequence[Delta]
    changes: Changes | None

    @classmethod
    def read(cls, release: Path) -> _Known:
        manifest = read_manifest(release)
        deltas, error = read_deltas(release)
        if error is not None:
            raise error
        bundle, changes = Bundle.load(Workspace(release), manifest.generation), together(deltas)
        if changes is not None and len(changes.new_ids):
            item_ids = pa.concat_arrays([bundle.item_ids, changes.new_ids])
            bundle = dataclasses.replace(
                bundle, item_ids=item_ids, codes_NL=np.concatenate([bundle.codes_NL, changes.codes_ML])
            )
        return cls(release=release, manifest=manifest, bundle=bundle, deltas=deltas, changes=changes)

    @property
    def withdrawn(self) -> pa.Array:
        return pa.array([], pa.string()) if self.changes is None else self.changes.withdrawn

    def facts(self, workspace: Workspace | None, ids: pa.Array) -> dict[str, dict[str, Any]]:
        """Return the facts that are served of items: the deltas', else the workspace's newest, else the release's."""
        facts: dict[str, dict[str, Any]] = {}
        tables = [space.table(CLEAN_ITEMS) for space in (Workspace(self.release), workspace) if space is not None]
        wanted = pc.field("item_id").isin(ids)
        found = [table.read(FACT_COLUMNS, filter=wanted) for table in tables if table.exists()]
        if self.changes is not None:
            found.append(self.changes.items.filter(wanted).select(FACT_COLUMNS))
        for rows in found:
            facts |= {row["item_id"]: row for row in rows.to_pylist()}
        return facts


def append(release: Path, items: pa.Table, workspace: Workspace | None = None) -> DeltaReport:
    """Add items to a release's catalogue as its next delta: new ones, known ones with other facts, withdrawn ones.

    Rows that change nothing are left out: appending the same rows again writes no delta.

    Args:
        release: Folder of the release.
        items: Valid rows of the items table, one per item.
        workspace: Holds newer facts of known items, perhaps; rows are compared with these.

    Raises:
        FileNotFoundError: There is no release there.
        DeltaError: A delta before is damaged, or another one was written meanwhile.
        ValueError: An item occurs twice, or columns are wrong.
    """
    known, items = _Known.read(release), conform(items, ITEMS, "items").combine_chunks()
    if len(pc.unique(items["item_id"])) != items.num_rows:
        raise ValueError("items to append: expected distinct item_id, got some twice; validate the items table")
    there = pc.is_in(items["item_id"], value_set=known.bundle.item_ids)
    ids = items["item_id"].filter(there).combine_chunks()
    facts, gone = known.facts(workspace, ids), set(known.withdrawn.to_pylist())
    returned, changed = [], []
    for row in items.filter(there).select(FACT_COLUMNS).to_pylist():
        if row["item_id"] in gone:
            returned.append(row["item_id"])
        elif row != facts.get(row["item_id"]):
            changed.append(row["item_id"])
    return _write(known, items, changed, returned, withdrawn=[])


def withdraw(release: Path, item_ids: Sequence[str]) -> DeltaReport:
    """Take items out of a release's catalogue as its next delta: no page shows them until they are appended again.

    Args:
        release: Folder of the release.
        item_ids: Their ids; those that the release does not have are reported.

    Raises:
        FileNotFoundError: There is no release there.
        DeltaError: A delta before is damaged, or another one was written meanwhile.
        ValueError: None of them is in the release.
    """
    known, asked = _Known.read(release), pc.unique(pa.array(item_ids, pa.string()))
    there = pc.is_in(asked, value_set=known.bundle.item_ids)
    unknown = tuple(asked.filter(pc.invert(there)).to_pylist())
    if len(unknown) == len(asked):
        raise ValueError(
            f"items to withdraw: expected ids of release {known.manifest.release_id}, got {', '.join(unknown[:5])}; "
            "`pagewise catalogue show` tells which release and deltas are meant"
        )
    inside = asked.filter(there)
    fresh = inside.filter(pc.invert(pc.is_in(inside, value_set=known.withdrawn))).to_pylist()
    report = _write(known, ITEMS.empty_table(), [], [], withdrawn=fresh)
    return dataclasses.replace(report, already=len(inside) - len(fresh), unknown=unknown)


def carry_over(source: Path, target: Path) -> list[str]:
    """Take over what one release's deltas say and another release does not know; return lines for the terminal.

    Items that the other release lacks are appended to it, and what is withdrawn stays withdrawn; where both have deltas
    about an item, the later one counts. Facts of items that the other release has from its own tables stay its own.

    Args:
        source: Folder of the release that was served so far; its damaged deltas, which nobody served, are left out.
        target: Folder of the one that will be.

    Raises:
        DeltaError: A delta of the target is damaged.
    """
    deltas, error = read_deltas(source)
    lines = [] if error is None else [f"not carried over: {error}"]
    changes = together(deltas)
    if changes is None:
        return lines
    known = _Known.read(target)
    since, until = _last_spoken_of(deltas), _last_spoken_of(known.deltas)
    later = {item for item, moment in since.items() if moment >= until.get(item, 0)}
    held, gone = set(known.bundle.item_ids.to_pylist()), set(known.withdrawn.to_pylist())
    left = set(changes.withdrawn.to_pylist())
    given = [item for item in changes.items["item_id"].to_pylist() if item in later - left]
    returned = [item for item in given if item in gone]
    wanted = [item for item in given if item not in held] + returned
    rows = changes.items.filter(pc.is_in(changes.items["item_id"], value_set=pa.array(wanted, pa.string())))
    withdrawn = sorted((left & later & held) - gone)
    report = _write(known, rows, [], returned, withdrawn, carried_from=read_manifest(source).release_id)
    return lines if report.delta is None else [*lines, *_delta_lines(report.delta)]


def delta_lines(release: Path) -> list[str]:
    """Return what a release's deltas are and come to, as lines for the terminal; a damaged one is named."""
    manifest = read_manifest(release)
    deltas, error = read_deltas(release)
    lines = [line for delta in deltas for line in _delta_lines(delta.manifest)]
    changes = together(deltas)
    if changes is None:
        lines.append(f"release {manifest.release_id} has no catalogue deltas")
    else:
        lines.append(
            f"release {manifest.release_id} with {len(deltas)} deltas: {len(changes.new_ids):,} items appended, "
            f"{len(changes.withdrawn):,} withdrawn"
        )
    return lines if error is None else [*lines, str(error)]


def _write(
    known: _Known,
    items: pa.Table,
    changed: list[str],
    returned: list[str],
    withdrawn: list[str],
    carried_from: str | None = None,
) -> DeltaReport:
    """Write the next delta, unless it would be empty."""
    new = encode_new(known.bundle, items)
    kept = pa.array([*changed, *returned], pa.string())
    rows = pa.concat_tables([new.items, items.filter(pc.is_in(items["item_id"], value_set=kept))])
    release_id = known.manifest.release_id
    already = items.num_rows - rows.num_rows
    if not rows.num_rows and not withdrawn:
        return DeltaReport(release_id=release_id, delta=None, already=already)
    changes = Changes(
        items=rows.combine_chunks(),
        new_ids=new.items["item_id"].combine_chunks(),
        codes_ML=new.codes_ML,
        content_MV=new.vectors_MD,
        vectors_MD=_vectors(known, new),
        withdrawn=pa.array(withdrawn, pa.string()),
    )
    manifest = DeltaManifest(
        release_id=release_id,
        number=len(known.deltas) + 1,
        previous=known.deltas[-1].digest if known.deltas else "",
        created=now(),
        carried_from=carried_from,
        appended=new.items.num_rows,
        changed=len(changed),
        returned=len(returned),
        withdrawn=len(withdrawn),
        collided=new.collided,
        overflow=new.overflow,
    )
    return DeltaReport(release_id=release_id, delta=write_delta(known.release, manifest, changes), already=already)


def _vectors(known: _Known, new: NewCodes) -> Floats | None:
    """Return the new items' vectors by the release's item tower."""
    if TWO_TOWER not in known.manifest.runs or not new.items.num_rows:
        return None
    towers, _ = load_two_tower(Workspace(known.release), known.manifest.runs[TWO_TOWER])
    return towers.item_vectors(item_columns(new.items))


def _last_spoken_of(deltas: Iterable[Delta]) -> dict[str, int]:
    """Return when a delta last said something of each item."""
    moments: dict[str, int] = {}
    for delta in deltas:
        moments |= dict.fromkeys(delta.changes.touched.to_pylist(), delta.manifest.created)
    return moments


def _delta_lines(delta: DeltaManifest) -> list[str]:
    origin = "" if delta.carried_from is None else f", carried over from release {delta.carried_from}"
    lines = [
        f"release {delta.release_id}, delta {delta.number}: {delta.appended:,} items appended, {delta.changed:,} "
        f"changed, {delta.returned:,} back again, {delta.withdrawn:,} withdrawn{origin}"
    ]
    if delta.appended:
        over = " / ".join(map(str, delta.overflow))
        lines.append(f"{delta.collided:,} of the new share a semantic ID; items beyond capacity per level: {over}")
    return lines

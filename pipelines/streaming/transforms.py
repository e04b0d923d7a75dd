"""The Beam side of a range: messages -> checked rows -> folds by user, then by item -> log files.

Elements are tables, as in the batch pipelines. Every piece of work is named by its range and can be repeated: files are
written under the range's name, what is folded carries its position. Steps are few, for each costs Beam some ten
milliseconds of every range: what is logged comes together with what is told in the last one, and a range that is not
cut into shards is one step, as nothing of it has to be shuffled.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from features.schemas import EVENT_LOG, FEATURE_LOG, ITEM_LOG, PAGE_LOG, STREAM_DEAD_LETTERS, STREAM_POSITION
from features.store.base import LeaseLostError
from features.stream.records import EVENTS, FEATURES, ITEMS, PAGES
from features.workspace import Workspace
from pipelines.batch.arrow import DAY_MS, Ints, decode, encode, milliseconds, shard_of, split_by
from pipelines.batch.transforms import open_workspace
from pipelines.streaming.compaction import write_log_file
from pipelines.streaming.folding import (
    Folding,
    fold_item_shard,
    fold_user_shard,
    item_shard_of,
    take_up_items,
)
from pipelines.streaming.log import STREAM, LogFile, Range, write_for_now
from pipelines.streaming.records import check_messages, check_times
from pipelines.streaming.taking import joined, read_piece

DONE, BY_ITEM = "done", "by_item"
"""Names of outputs: `Part` elements, and rows for the folds by item."""
TASK, SUMMARY = "task.json", "summary.json"
_SORT_KEYS = {
    EVENT_LOG: ("timestamp", "event_id"),
    PAGE_LOG: ("timestamp", "request_id"),
    ITEM_LOG: ("item_id",),
    FEATURE_LOG: ("timestamp", "request_id"),
    STREAM_DEAD_LETTERS: ("table", "reason", "row", "detail"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What a piece of work did.

    Attributes:
        counts: Rows by name.
        newest: Time of the newest event; 0 for none.
        logged: Rows for the log, encoded, by the folder of their file.
        files: What was written.
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    newest: int = 0
    logged: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    files: tuple[LogFile, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a run of the pipeline is to do; written to a file by the driver, read by every piece of work.

    Attributes:
        owner: Names the driver that wrote it.
        taken: The range.
        generation: Of the store, to fold into.
        spans: First and last position of each piece of the range.
    """

    owner: str
    taken: Range
    generation: int
    spans: Sequence[tuple[int, int]]

    def write(self, workspace: Workspace) -> None:
        """Let this be the task."""
        document = {**dataclasses.asdict(self), "taken": self.taken.to_json().decode()}
        write_for_now(workspace, workspace.path(STREAM, TASK), json.dumps(document).encode())

    @classmethod
    def read(cls, workspace: Workspace) -> Self:
        """Return the task."""
        document = json.loads(workspace.read_bytes(STREAM, TASK))
        spans = [(first, last) for first, last in document["spans"]]
        return cls(**{**document, "taken": Range.from_json(document["taken"]), "spans": spans})


@dataclasses.dataclass(frozen=True)
class Work:
    """What stays the same from range to range: the workspace, the options, and the driver whose work it is."""

    uri: str
    options: Folding
    owner: str

    def task(self) -> Task:
        """Return the task.

        Raises:
            LeaseLostError: Another driver has taken over: its files must not be written over.
        """
        task = Task.read(open_workspace(self.uri))
        if task.owner != self.owner:
            raise LeaseLostError("another process has taken over the stream while this one stood still")
        return task

    def now(self) -> Folding:
        """Return how to fold the range that is taken up; raises as `task`."""
        task = self.task()
        return dataclasses.replace(self.options, taken=task.taken, generation=task.generation)


class Step(beam.DoFn):
    """Calls a function of this module with each element and the work."""

    def __init__(self, piece: Callable[..., Iterable[Any]], work: Work) -> None:
        super().__init__()
        self._piece, self._work = piece, work

    @classmethod
    def of(cls, piece: Callable[..., Iterable[Any]], work: Work, *waited_for: AsIter) -> beam.ParDo:
        """Return the transform; it begins once the side inputs are there, and the function gets them, too."""
        return beam.ParDo(cls(piece, work), *waited_for)

    @no_annotations
    def process(self, element: Any, *waited_for: Iterable[Any]) -> Iterable[Any]:
        """Return what the function makes of an element."""
        return self._piece(element, self._work, *waited_for)

    def __dir__(self) -> list[str]:
        """Name the only method that Beam has to look into: by default it asks for 30 signatures in every range."""
        return ["process"]


class TakeUpRange(beam.PTransform):
    """Takes up the range that `Task` names; then `read_summary` tells what was done.

    It is the same pipeline for every range, so that it is built once.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Check, then items, then users, then what users did to items; log all of it."""
        work = self.work
        if work.options.stream.shards == 1:
            return start | "start" >> beam.Impulse() | "take up" >> Step.of(_whole, work)
        spans = start | "start" >> beam.Impulse() | "spans" >> Step.of(_spans, work)
        checked = spans | "check" >> Step.of(_check, work).with_outputs(ITEMS, DONE, main=EVENTS)
        items = (
            checked[ITEMS]
            | "items together" >> beam.GroupByKey()
            | "take up items" >> Step.of(_items, work).with_outputs(DONE, main=ITEMS)
        )
        users = (
            checked[EVENTS]
            | "by user" >> beam.GroupByKey()
            # facts of new items are in the store before anything is folded that counts by them
            | "fold users" >> Step.of(_users, work, AsIter(items[ITEMS])).with_outputs(DONE, main=BY_ITEM)
        )
        folded = users[BY_ITEM] | "by item" >> beam.GroupByKey() | "fold items" >> Step.of(_by_item, work)
        parts = [AsIter(part) for part in (checked[DONE], items[DONE], users[DONE], folded)]
        return start | "end" >> beam.Impulse() | "log" >> Step.of(_log, work, *parts)


def read_summary(workspace: Workspace, taken: Range) -> Part:
    """Return what was done to a range that was taken up."""
    document = json.loads(workspace.read_bytes(STREAM, SUMMARY))
    assert document["last"] == taken.last, document
    files = tuple(LogFile(**file) for file in document["files"])
    return Part(files=files, counts=document["counts"], newest=document["newest"])


def _whole(_: bytes, work: Work) -> Iterable[Any]:
    """Do all steps of a range, one after the other."""
    found: dict[str, list[Any]] = {name: [] for name in (EVENTS, ITEMS, BY_ITEM, DONE)}

    def step(piece: Callable[..., Iterable[Any]], elements: Iterable[Any], main: str) -> None:
        for element in elements:
            for output in piece(element, work):
                tagged = isinstance(output, TaggedOutput)
                found[output.tag if tagged else main].append(output.value if tagged else output)

    step(_check, _spans(b"", work), EVENTS)
    step(_items, _grouped(found[ITEMS]), ITEMS)
    step(_users, _grouped(found[EVENTS]), BY_ITEM)
    step(_by_item, _grouped(found[BY_ITEM]), DONE)
    return _log(b"", work, found[DONE])


def _grouped(keyed: Iterable[tuple[int, Any]]) -> list[tuple[int, list[Any]]]:
    groups: dict[int, list[Any]] = {}
    for key, value in keyed:
        groups.setdefault(key, []).append(value)
    return [*groups.items()]


def _spans(_: bytes, work: Work) -> Sequence[tuple[int, int]]:
    return work.task().spans


def _check(span: tuple[int, int], work: Work) -> Iterator[tuple[int, tuple[str, bytes]] | TaggedOutput]:
    folding = work.now()
    for table, lines in joined(read_piece(work.owner, span, folding.open_stream())).items():
        yield from _check_lines(table, lines, span[0], folding)


def _check_lines(
    table: str, lines: bytes, position: int, folding: Folding
) -> Iterator[tuple[int, tuple[str, bytes]] | TaggedOutput]:
    checked = check_messages(table, lines)
    rows, dead = checked.rows, [checked.dead]
    logged: dict[str, bytes] = {}
    counts = {f"{table}.in": rows.num_rows + checked.dead.num_rows}
    if table in (EVENTS, PAGES, FEATURES):
        timed = check_times(table, rows, folding.taken, folding.stream)
        dead.append(timed.dead)
        if table == FEATURES:
            logged |= _logged(FEATURE_LOG, timed.rows, folding)
            counts[f"{FEATURES}.logged"] = timed.rows.num_rows
        else:
            for shard, piece in _pieces(timed.rows, shard_of(timed.rows.column("user_id"), folding.stream.shards)):
                yield shard, (table, piece)
    elif rows.num_rows:
        yield TaggedOutput(ITEMS, (0, (position, encode(rows))))
    letters = pa.concat_tables(dead)
    if letters.num_rows:
        logged |= _logged(STREAM_DEAD_LETTERS, letters, folding)
        for reason in letters.column("reason").value_counts().to_pylist():
            counts[f"{table}.dropped.{reason['values']}"] = reason["counts"]
    yield _done(counts=counts, logged=logged)


def _pieces(rows: pa.Table, shards: Ints) -> Iterator[tuple[int, bytes]]:
    """Yield (shard, its rows); a range is small: nothing of it needs to wait in a file."""
    for shard, piece in split_by(rows, shards):
        yield shard, encode(piece)


def _items(keyed: tuple[int, Iterable[tuple[int, bytes]]], work: Work) -> Iterator[int | TaggedOutput]:
    folding = work.now()
    pieces = [decode([piece]) for _, piece in sorted(keyed[1])]
    rows, replaced = take_up_items(pa.concat_tables(pieces), folding)
    yield _done(counts=_counts(ITEMS, rows, replaced), logged=_logged(ITEM_LOG, rows, folding))
    yield rows.num_rows


def _users(
    keyed: tuple[int, Iterable[tuple[str, bytes]]], work: Work, _: Iterable[int] = ()
) -> Iterator[tuple[int, bytes] | TaggedOutput]:
    folding = work.now()
    pieces: dict[str, list[bytes]] = {EVENTS: [], PAGES: []}
    for table, piece in keyed[1]:
        pieces[table].append(piece)
    events, pages = (decode(pieces[table]) if pieces[table] else None for table in (EVENTS, PAGES))
    folded = fold_user_shard(events, pages, folding)
    logged = _logged(EVENT_LOG, folded.events, folding) | _logged(PAGE_LOG, folded.pages, folding)
    counts = {f"{EVENTS}.implied": folded.implied, **_counts(EVENTS, folded.events, folded.repeated_events)}
    counts |= _counts(PAGES, folded.pages, folded.repeated_pages)
    newest = int(milliseconds(folded.events.column("timestamp")).max(initial=0))
    yield _done(counts=counts, newest=newest, logged=logged)
    yield from _pieces(folded.of_items, item_shard_of(folded.of_items.column("item_id"), folding))


def _by_item(keyed: tuple[int, Iterable[bytes]], work: Work) -> Iterator[Part]:
    fold_item_shard(decode(keyed[1]), work.now())
    yield Part()


def _done(**what: Any) -> TaggedOutput:
    """Return what a piece of work did, for the last step."""
    return TaggedOutput(DONE, Part(**what))


def _counts(table: str, logged: pa.Table, duplicates: int) -> dict[str, int]:
    return {f"{table}.logged": logged.num_rows, f"{table}.duplicates": duplicates}


def _logged(table: str, rows: pa.Table, folding: Folding) -> dict[str, bytes]:
    """Return rows for the log, encoded, by the folder of their file."""
    if not rows.num_rows:
        return {}
    positions = pa.array(np.full(rows.num_rows, folding.taken.last, np.int64))
    days = split_by(rows.append_column(STREAM_POSITION, positions), _days(table, rows, folding))
    return {f"{table}/date={np.datetime64(day, 'D')}": encode(part) for day, part in days}


def _days(table: str, rows: pa.Table, folding: Folding) -> Ints:
    if table in (EVENT_LOG, PAGE_LOG, FEATURE_LOG):
        return milliseconds(rows.column("timestamp")) // DAY_MS
    return np.full(rows.num_rows, folding.taken.opened // DAY_MS, np.int64)


def _log(_: bytes, work: Work, *parts: Iterable[Part]) -> Iterable[Any]:
    """Write the files of the range, and what was done to it."""
    folding = work.now()
    together, counts = list(itertools.chain(*parts)), Counter[str]()
    pieces: dict[str, list[bytes]] = {}
    for part in together:
        counts.update(part.counts)
        for folder, piece in part.logged.items():
            pieces.setdefault(folder, []).append(piece)
    document = {
        "last": folding.taken.last,
        "files": [dataclasses.asdict(_written(folder, rows, folding, work)) for folder, rows in pieces.items()],
        "counts": counts,
        "newest": max(part.newest for part in together),
    }
    workspace = open_workspace(work.uri)
    write_for_now(workspace, workspace.path(STREAM, SUMMARY), json.dumps(document).encode())
    return ()


def _written(folder: str, pieces: Sequence[bytes], folding: Folding, work: Work) -> LogFile:
    rows = decode(pieces).sort_by([(name, "ascending") for name in _SORT_KEYS[folder.split("/")[0]]])
    return write_log_file(open_workspace(work.uri), folder, folding.taken.first, folding.taken.last, rows)

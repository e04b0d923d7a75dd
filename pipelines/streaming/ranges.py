"""How a range of the stream becomes part of the log: opened, worked on, done.

A range is written down before it is worked on. After a crash the same range is worked on again and writes the same
files over those that are there, so that a row is in the log once, whenever the crash was.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

from features.workspace import Workspace
from pipelines.streaming.compaction import replaced_files
from pipelines.streaming.log import (
    COMPACTED,
    STREAM,
    LogFile,
    Range,
    position_of_file,
    range_file,
    range_files,
    read_ranges,
    write_durably,
)

REPLACED_STAY_S = 3600.0
"""How long files that were compacted stay for readers: a stage of the daily job that began before must still end."""


class RangeLog:
    """The ranges of a workspace; there must be one writer.

    Args:
        workspace: Where the log is.

    Attributes:
        open_range: The range that was opened and is not done; None between ranges.
        compacted: What the ranges that have no file of their own any more come to.
        done: Those behind it that are done, in order.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._replaced: dict[str, float] = {}
        self.compacted, ranges = read_ranges(workspace)
        self.done = [found for found in ranges if found.done]
        self.open_range = next((found for found in ranges if not found.done), None)

    @property
    def position(self) -> int:
        """Everything up to here is done."""
        return self._newest.last

    @property
    def watermark(self) -> int:
        """Time of the newest event so far, milliseconds since 1970 UTC; 0 for none."""
        return self._newest.newest

    def open(self, first: int, last: int) -> Range:
        """Write down that the messages from `first` to `last` are worked on next."""
        assert self.open_range is None
        assert first > self.position, (first, self.position)
        opened = Range(first=first, last=last, opened=time.time_ns() // 1_000_000, watermark=self.watermark)
        self._write(opened)
        self.open_range = opened
        return opened

    def finish(self, files: Sequence[LogFile], counts: Mapping[str, int], newest: int) -> Range:
        """Mark the open range as done: from now on its files are part of the log.

        Args:
            files: What it wrote.
            counts: See `Range`.
            newest: Time of its newest event; 0 for none.
        """
        assert self.open_range is not None
        done = dataclasses.replace(
            self.open_range,
            done=True,
            newest=max(newest, self.open_range.watermark),
            files=tuple(sorted(files, key=lambda file: file.path)),
            counts=dict(counts),
        )
        self._write(done)
        self.done.append(done)
        self.open_range = None
        return done

    def replace(self, compacted: Range, *, at_once: bool = False) -> None:
        """Let what `compaction.compact` made of the first ranges stand for them.

        Args:
            compacted: Those ranges as one.
            at_once: Remove the files that it replaces now. Otherwise they go with the first compaction after
                `REPLACED_STAY_S`: who has asked for the log's files meanwhile can still read them.
        """
        write_durably(self._workspace, self._workspace.path(STREAM, COMPACTED), compacted.to_json())
        self.compacted = compacted
        self.done = [found for found in self.done if found.last > compacted.last]
        for path in range_files(self._workspace):
            if position_of_file(path) <= compacted.last:
                self._workspace.filesystem.delete_file(path)
        now = time.monotonic()
        found_at = {path: self._replaced.get(path, now) for path in replaced_files(self._workspace, compacted)}
        gone = {path for path, found in found_at.items() if at_once or now - found >= REPLACED_STAY_S}
        for path in gone:
            self._workspace.filesystem.delete_file(path)
        self._replaced = {path: found for path, found in found_at.items() if path not in gone}

    @property
    def _newest(self) -> Range:
        return self.done[-1] if self.done else self.compacted

    def _write(self, found: Range) -> None:
        write_durably(self._workspace, range_file(self._workspace, found.last), found.to_json())

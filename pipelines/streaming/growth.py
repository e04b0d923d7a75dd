"""New items for the pages of tomorrow's minute: what the stream logs of items goes to the champion's catalogue, too.

It happens beside the stream, so that events do not wait for encoders. How far it has got is written down afterwards:
after a crash the same rows are appended again, which changes nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from features.schemas import ITEM_LOG, ITEMS, STREAM_POSITION
from features.workspace import Workspace
from kernels.ranks import string_ranks
from pipelines.streaming.log import STREAM, committed_log
from pipelines.streaming.metrics import StreamMetrics

Champion = Callable[[], AbstractContextManager[Path | None]]
APPENDED = "appended.json"
RETRY_S = 10.0
"""Seconds before a champion that could not take items is asked again."""


class CatalogueGrowth:
    """Appends logged items to the champion's catalogue in a thread of its own, which `close` ends.

    Args:
        workspace: Where log and releases are.
        champion: Gives the champion's release folder, None while there is none, and keeps promotions away while it is
            written to (`models.registry.Registry.held`).
        metrics: Takes what is to be told.
        say: Takes lines for the terminal.
    """

    def __init__(
        self,
        workspace: Workspace,
        champion: Champion,
        metrics: StreamMetrics,
        say: Callable[[str], None],
    ) -> None:
        self._workspace, self._champion, self._metrics, self._say = workspace, champion, metrics, say
        self._wanted, self._closing, self._finish = threading.Event(), threading.Event(), True
        self._thread = threading.Thread(target=self._run, name="catalogue growth", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let what is in the log by now be appended soon."""
        self._wanted.set()

    def close(self, *, finish: bool = True) -> None:
        """Finish what is wanted, and end; repeating it is harmless.

        Args:
            finish: Else nobody waits: what is wanted is appended after the next start.
        """
        self._finish = finish
        self._closing.set()
        self._wanted.set()
        if finish:
            self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            self._wanted.wait()
            self._wanted.clear()
            ending = self._closing.is_set()
            if ending and not self._finish:
                return
            try:
                self.append_logged()
            except Exception as error:  # the stream goes on without; the next attempt takes up everything
                self._metrics.append_failures.inc()
                self._say(f"items of the stream could not be appended to the champion's catalogue: {error}")
                self._closing.wait(RETRY_S)
                self._wanted.set()

    def append_logged(self) -> int:
        """Append what the log holds behind the last time, and return how many items that changed."""
        log = committed_log(self._workspace)
        reached = self._reached()
        behind = pc.field(STREAM_POSITION) > reached
        rows = log.dataset(self._workspace, ITEM_LOG).to_table(filter=behind)
        if not rows.num_rows:
            return 0
        with self._champion() as release:
            if release is None:
                return 0
            from models.recommend.delta_changes import append  # brings torch, which most streams never need

            report = append(release, newest_rows(rows), self._workspace)
        changed = 0 if report.delta is None else report.delta.appended + report.delta.changed + report.delta.returned
        self._metrics.items_appended.inc(changed)
        for line in report.lines() if changed else ():
            self._say(line)
        text = json.dumps({"position": log.position, "release": release.name, "at": time.time()})
        self._workspace.write_bytes(text.encode(), STREAM, APPENDED)
        return changed

    def _reached(self) -> int:
        path = self._workspace.path(STREAM, APPENDED)
        if self._workspace.filesystem.get_file_info(path).type != pafs.FileType.File:
            return 0
        return int(json.loads(self._workspace.read_bytes(STREAM, APPENDED))["position"])


def newest_rows(rows: pa.Table) -> pa.Table:
    """Return the newest of several rows of an item, as rows of `features.schemas.ITEMS`.

    Args:
        rows: Of the table `item_log`.
    """
    order = np.asarray(pc.sort_indices(rows, [(STREAM_POSITION, "descending")]))
    ordered = rows.take(pa.array(order))
    _, first = np.unique(string_ranks(ordered.column("item_id")), return_index=True)
    return ordered.take(pa.array(first)).select(ITEMS.names).cast(ITEMS)

"""Forget persons: everything that a workspace, its online store and its stream hold of them.

Models that have seen their events stay until the next training: the daily job finds its inputs changed and trains anew.
Releases and evaluation reports hold nobody's ids. Backups of the workspace and of Redis are their owner's business.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pyarrow.compute as pc

from features.ids import ID, is_id
from features.schemas import LOG_TABLES
from features.store.base import USER_VIEWS, LeaseHeldError
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.stream.config import StreamConfig
from features.workspace import Workspace
from pipelines.batch.config import PagesConfig
from pipelines.forgetting.given_files import forget_in_given_files
from pipelines.forgetting.rows import USER_ID
from pipelines.forgetting.tables import forget_in_tables
from pipelines.jobs.lock import writing_tables
from pipelines.streaming.log import committed_log
from pipelines.streaming.run import run_stream

STREAM_TIMEOUT_S = 300.0
"""A running stream has forgotten a user once it has taken up what came before; it is waited for so long."""
_POLL_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetReport:
    """What was removed.

    Attributes:
        users: How many were to be forgotten.
        tables: Table -> rows.
        files: A user's own raw file -> rows.
        log_rows: Rows of the stream's log.
        blobs: Entries of the online store, and of the lists that the service kept for cursors.
    """

    users: int
    tables: Mapping[str, int]
    files: Mapping[str, int]
    log_rows: int
    blobs: int

    def lines(self) -> list[str]:
        """Return the report as lines for a terminal."""
        if not (self.tables or self.files or self.log_rows or self.blobs):
            return [f"nothing is known of {self.users:,} users, nothing was removed"]
        tables = ", ".join(f"{name} {rows:,}" for name, rows in self.tables.items()) or "none"
        return [
            f"forgotten: {self.users:,} users; rows of tables: {tables}; of the stream's log {self.log_rows:,}; "
            f"entries of the online store {self.blobs:,}",
            *(f"rewritten without them: {path} ({rows:,} rows)" for path, rows in self.files.items()),
        ]


def forget(
    workspace: Workspace,
    users: Sequence[str],
    store_config: StoreConfig,
    stream_config: StreamConfig,
    pages_config: PagesConfig,
    say: Callable[[str], None],
) -> ForgetReport:
    """Remove everything that is held of these users; what comes in of them afterwards is another person's.

    The stream's log and the online store are cleaned by the stream's writer: by the running `pagewise stream`, or here
    where none runs, after what waits in the stream has been taken up.

    Args:
        workspace: On this machine; no daily job may be running in it.
        users: Ids, at least one.
        store_config: The online store.
        stream_config: The event stream.
        pages_config: How the stream makes pages.
        say: Takes lines for the terminal.

    Raises:
        LockedError: A daily job runs.
        StoreUnavailableError: The store does not answer; nothing was removed.
        TimeoutError: A stream runs, but has not got there in time; what was removed is gone, the rest is not.
        UnreadableFileError: A raw file cannot be read: this and later ones keep their rows, the rest is removed.
        ValueError: There is no id, or a blank one, which all rejected rows that cannot be read would contain.
    """
    blank = [user for user in users if not user.strip()]
    if blank or not users:
        raise ValueError(f"users: expected at least one id, none of them blank, got {blank or list(users)}")
    if rejected := [user for user in users if not is_id(user)]:
        say(f"no stage accepts {len(rejected):,} of these ids (expected {ID} each): only rejected rows may hold them")
    with writing_tables(workspace), open_store(store_config, workspace) as store:
        held = store.read_blobs([(view, user) for view in USER_VIEWS for user in users])
        log_rows = _log_rows(workspace, users)
        store.ask_to_forget(users)
        own_stream = dataclasses.replace(stream_config, until_empty=True, metrics_port=None)
        try:
            run_stream(workspace, own_stream, store_config, pages_config, stopping=threading.Event(), wait_s=0.0)
        except LeaseHeldError:
            say("a stream is running: it forgets them once it has taken up what waits")
            _wait(store, users)
        lists = store.remove_lists(users)
        store.rewrite_files()
        return ForgetReport(
            users=len(users),
            tables=forget_in_tables(workspace, frozenset(users)),
            files=forget_in_given_files(workspace, frozenset(users)),
            log_rows=log_rows,
            blobs=sum(blob is not None for blob in held) + lists,
        )


def _log_rows(workspace: Workspace, users: Sequence[str]) -> int:
    log = committed_log(workspace)
    tables = [name for name, schema in LOG_TABLES.items() if USER_ID in schema.names and log.files[name]]
    of_users = pc.field(USER_ID).isin(list(users))
    return sum(log.dataset(workspace, name).count_rows(filter=of_users) for name in tables)


def _wait(store: RedisStore, users: Sequence[str]) -> None:
    """Wait until the stream has forgotten these users."""
    deadline = time.monotonic() + STREAM_TIMEOUT_S
    while left := set(users) & store.to_be_forgotten().keys():
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the running stream has not forgotten {len(left)} users within {STREAM_TIMEOUT_S:g} s: expected it to "
                "get to what was sent before; look at its lag, and run the same command again: it goes on from there"
            )
        time.sleep(_POLL_S)

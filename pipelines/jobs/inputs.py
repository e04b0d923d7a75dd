"""Fingerprints of what stages read and write: a stage is up to date while they are what they were."""

from __future__ import annotations

from collections.abc import Callable, Collection

from features.definitions import ITEM_FEATURES, PAGE_FEATURES
from features.schemas import RAW_TABLES
from features.workspace import MANIFEST, Workspace
from models.recommend.release_parts import GENREC, KINDS
from models.tokenizer.bundle import latest_generation
from models.training.runs import ALIGNED, LATEST
from pipelines.batch.increment import STREAM
from pipelines.batch.raw import fingerprint, raw_files
from pipelines.jobs.stages import file_fingerprint, table_fingerprints
from pipelines.streaming.log import committed_log

RELEASED_TABLES = (
    "sequences",
    "item_statistics",
    "transitions",
    "clean_items",
    "clean_users",
    "pages",
    ITEM_FEATURES,
    PAGE_FEATURES,
)


class StageInputs:
    """Fingerprints within one workspace.

    Args:
        workspace: The workspace.
        stream_log: Whether the stream's log is read beside the raw tables.
    """

    def __init__(self, workspace: Workspace, *, stream_log: bool = True) -> None:
        self.workspace, self._stream_log = workspace, stream_log

    def stream(self) -> dict[str, str]:
        """Return the position up to which the stream's log is committed, nothing where none is read."""
        position = committed_log(self.workspace).position if self._stream_log else 0
        return {STREAM: str(position)} if position else {}

    def raw_tables(self) -> dict[str, str]:
        """Return fingerprints of the raw tables, committed or plain files, notes of committed ones, and the stream."""
        found = {name: fingerprint(self.workspace, name) for name in RAW_TABLES if raw_files(self.workspace, name)}
        notes = table_fingerprints(self.workspace, *RAW_TABLES, "import_rejects")
        return {**found, **{f"{name} manifest": digest for name, digest in notes.items()}, **self.stream()}

    def tables(self, *names: str) -> Callable[..., dict[str, str]]:
        """Return a function that fingerprints the committed ones of these tables."""
        return lambda folder=None: table_fingerprints(self.workspace, *names)

    def bundle(self) -> dict[str, str]:
        """Return the newest generation of semantic IDs."""
        return {"semantic_ids": latest_generation(self.workspace)}

    def released(self, without: Collection[str] = ()) -> dict[str, str]:
        """Return what releases are made of: tables, semantic IDs, the newest runs, GenRec's aligned one among them.

        Args:
            without: Kinds of models to leave out.
        """
        found = {**self.tables(*RELEASED_TABLES)(), **self.bundle()}
        for kind in (kind for kind in KINDS if kind not in without):
            found |= self.pointed_at("checkpoints", kind)
        return {**found, **self.pointed_at("checkpoints", GENREC, pointer=ALIGNED)}

    def pointed_at(self, *folder: str, pointer: str = LATEST) -> dict[str, str]:
        """Return what a folder's pointer names and the digest of its manifest."""
        if not self.workspace.local_path(*folder, pointer).exists():
            return {}
        name = self.read(*folder, pointer)
        return {"/".join([*folder, pointer]): name, **file_fingerprint(self.workspace, *folder, name, MANIFEST)}

    def read(self, *parts: str) -> str:
        """Return a small text file of the workspace."""
        return self.workspace.read_bytes(*parts).decode().strip()

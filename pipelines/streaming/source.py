"""Where the log of a workspace was taken from: positions of one source say nothing of another's."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs

from features.stream.config import DIRECTORY, KAFKA, StreamConfig
from features.workspace import Workspace
from pipelines.streaming.log import STREAM, committed_log, write_durably

SOURCE = "source"


def require_source(workspace: Workspace, config: StreamConfig) -> None:
    """Write down where the log is taken from, once.

    Raises:
        ValueError: It was begun from another source, whose messages would be passed over, or the folder is not there.
    """
    if config.source == DIRECTORY and not Path(config.folder or "").is_dir():
        raise ValueError(f"stream.folder: expected the folder that events arrive in, got {config.folder!r}; make it")
    places = {DIRECTORY: f" {Path(config.folder or '').absolute()}", KAFKA: f" {config.topic}"}
    wanted = config.source + places.get(config.source, "")
    path = workspace.path(STREAM, SOURCE)
    held = ""
    if workspace.filesystem.get_file_info(path).type == pafs.FileType.File:
        held = workspace.read_bytes(STREAM, SOURCE).decode().strip()
    if held and held != wanted and committed_log(workspace).position:
        raise ValueError(
            f"stream.source: the log in {workspace.path(STREAM)} is taken from {held!r}, got {wanted!r}; what waits in "
            "either would be passed over: name that source, or use another workspace"
        )
    if held != wanted:
        write_durably(workspace, path, wanted.encode())

"""The event stream on a folder: blocks of large files, files that are not finished, two processes at one index."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from features.stream import directory
from features.stream.base import StreamUnavailableError
from features.stream.directory import INDEX, DirectoryStream


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f".{name}").write_text(text)
    os.rename(folder / f".{name}", folder / name)


def lines(messages) -> list[str]:
    return [line for message in messages for line in message.record.rows.decode().split("\n") if line]


def test_every_line_is_in_one_block(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(directory, "BLOCK_BYTES", 10)
    wanted = ["short", "a line that is longer than two blocks", "x" * 9, "y" * 10, "z"]
    put(tmp_path, "events-1.jsonl", "\n".join(wanted))
    stream = DirectoryStream(str(tmp_path))
    messages = stream.read_after(0, 100, 0)
    assert len(messages) == -(-len("\n".join(wanted)) // 10)
    assert lines(messages) == wanted
    assert lines(stream.read_range(messages[2].position, messages[-1].position)) == lines(messages[2:])
    assert stream.backlog(messages[2].position) == len(messages) - 3


def test_files_keep_their_positions(tmp_path) -> None:
    put(tmp_path, "events-b.jsonl", "1")
    first = DirectoryStream(str(tmp_path)).read_after(0, 10, 0)
    put(tmp_path, "items-a.jsonl", "2")
    put(tmp_path, "unrelated.jsonl", "3")
    put(tmp_path, "events-unfinished.jsonl.part", "4")
    messages = DirectoryStream(str(tmp_path)).read_after(0, 10, 0)
    assert messages[:1] == first
    assert [(message.record.table, message.record.rows) for message in messages] == [("events", b"1"), ("items", b"2")]


def test_a_torn_index_line_is_written_again(tmp_path) -> None:
    put(tmp_path, "events-a.jsonl", "1")
    put(tmp_path, "events-b.jsonl", "2")
    messages = DirectoryStream(str(tmp_path)).read_after(0, 10, 0)
    text = (tmp_path / INDEX).read_bytes()
    (tmp_path / INDEX).write_bytes(text[:-7])
    again = DirectoryStream(str(tmp_path)).read_after(0, 10, 0)
    assert lines(again) == ["1", "2"]
    assert again[0] == messages[0]


def test_a_file_in_its_place_is_told(tmp_path) -> None:
    (tmp_path / "in").write_text("")
    with pytest.raises(StreamUnavailableError, match=r"in cannot be used: .*\(stream\.folder\)"):
        DirectoryStream(str(tmp_path / "in"))

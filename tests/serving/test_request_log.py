from __future__ import annotations

import json
import os

from serving import logs
from serving.logs import RequestLog


def lines(path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_a_moved_file_is_opened_again_and_a_large_one_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LOOK_EVERY", 1)
    path = tmp_path / "logs" / "requests.jsonl"
    log = RequestLog(path)
    assert log.write({"n": 1})
    path.rename(tmp_path / "moved")
    log.write({"n": 2})
    assert (lines(tmp_path / "moved"), lines(path)) == ([1], [2])
    monkeypatch.setattr(logs, "MOST_BYTES", 10)
    log.write({"n": 3})
    assert (lines(path.with_name("requests.jsonl.1")), lines(path)) == ([2], [3])
    log.close()


def test_what_cannot_be_written_is_told_and_fails_nothing(tmp_path):
    log = RequestLog(tmp_path / "requests.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._handle)
    assert not log.write({"n": 1})
    os.close(full)
    log.close()


def test_a_pipe_that_nobody_reads_fast_enough_loses_lines_instead_of_time(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    log = RequestLog(tmp_path / "pipe")
    written = [log.write({"n": number, "text": "x" * 1000}) for number in range(200)]
    assert written[0]
    assert not written[-1]
    log.close()
    os.close(reader)

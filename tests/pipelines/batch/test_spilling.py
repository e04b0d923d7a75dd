"""Pieces that wait in a file: they come back, nothing is left behind, and Beam is handed references alone."""

from __future__ import annotations

import contextlib
import resource
import threading

import pyarrow as pa
import pytest
from batch_cases import random_events, write_events

from pipelines.batch.arrow import decode, encode
from pipelines.batch.config import BatchConfig
from pipelines.batch.jobs import validate
from pipelines.batch.spilling import fetch, put_aside, spilling
from pipelines.batch.transforms import split_by_shard

ROWS = pa.table({"user_id": [f"u{number % 10}" for number in range(1000)], "value": range(1000)})


def test_a_piece_comes_back_and_what_is_handed_on_is_24_bytes(tmp_path):
    with spilling(str(tmp_path)):
        references = [put_aside(piece) for piece in (b"one", b"", b"three" * 1000)]
        assert [len(reference) for reference in references] == [24, 24, 24]
        assert [fetch(reference) for reference in reversed(references)] == [b"three" * 1000, b"", b"one"]


def test_without_a_pipeline_in_this_process_a_piece_is_handed_on_as_it_is():
    piece = encode(ROWS)
    assert put_aside(piece) is piece
    assert fetch(piece) is piece


def test_the_file_has_no_name_and_is_gone_when_the_last_pipeline_ends(tmp_path):
    with spilling(str(tmp_path)):
        reference = put_aside(b"outer")
        with spilling(str(tmp_path)):
            put_aside(b"inner")
        assert fetch(reference) == b"outer"
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(AssertionError, match="outlived its pipeline"):
        fetch(reference)


@contextlib.contextmanager
def full_disk():
    """Files of this process cannot grow beyond 100 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def put_too_much(folder):
    with spilling(str(folder)):
        for _ in range(3):
            put_aside(b"x" * 70)


def test_a_full_disk_ends_one_pipeline_and_not_the_next(tmp_path):
    with full_disk(), pytest.raises(OSError, match="too large"):
        put_too_much(tmp_path)
    with spilling(str(tmp_path)):
        assert fetch(put_aside(b"again")) == b"again"


def test_shards_that_waited_hold_the_rows_they_had(tmp_path):
    with spilling(str(tmp_path)):
        shards = dict(split_by_shard(ROWS, "user_id", 4))
        assert {len(piece) for piece in shards.values()} == {24}
        rows = pa.concat_tables([decode([piece]) for piece in shards.values()])
    assert rows.sort_by("value").equals(ROWS)


def test_threads_put_aside_and_fetch_at_once(tmp_path):
    wrong = []

    def work(number: int) -> None:
        pieces = [bytes([number]) * size for size in range(200)]
        references = [put_aside(piece) for piece in pieces]
        wrong.extend(number for piece, reference in zip(pieces, references, strict=True) if fetch(reference) != piece)

    with spilling(str(tmp_path)):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_stage_leaves_nothing_but_its_summary(workspace):
    write_events(workspace, random_events(seed=1, size=200))
    validate(workspace, BatchConfig(shards=2))
    assert [path.name for path in workspace.local_path("runs").rglob("*") if path.is_file()] == ["summary.json"]

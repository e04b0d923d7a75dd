import gzip

import pyarrow as pa
import pytest

from pipelines.batch.raw import UnreadableFileError
from pipelines.importers.reading import Source, numbers, read_columns, read_lines


@pytest.mark.parametrize("size", range(1, 9))
def test_double_colons_are_read_whatever_block_they_fall_into(size, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.importers.reading._BLOCK_BYTES", 16 + size)
    path = tmp_path / "movies.dat"
    path.write_text("1::a:b::c\n22::d::e\n333::f::g: h\n")
    batches = list(read_columns(path, 2, names=("id", "title", "genre"), delimiter="::", quoted=False))
    assert [row for batch in batches for row in batch.rows.to_pylist()] == [
        {"id": "1", "title": "a:b", "genre": "c"},
        {"id": "22", "title": "d", "genre": "e"},
        {"id": "333", "title": "f", "genre": "g: h"},
    ]


def test_cells_keep_quoted_newlines_and_lose_the_byte_order_mark(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"two\nlines"\r\n2,\r\n')
    (batch,) = read_columns(path, 10)
    assert batch.rows.to_pylist() == [{"id": "1", "text": "two\nlines"}, {"id": "2", "text": None}]


def test_lines_of_a_gzip_file_of_several_members(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one\r\n\n") + gzip.compress(b"two"))
    assert list(read_lines(path)) == ["one", "two"]


def test_a_file_that_is_no_gzip_is_named(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"plain text")
    with pytest.raises(UnreadableFileError, match=r"a\.txt\.gz: reading failed"):
        list(read_lines(path))


def test_numbers():
    column = pa.chunked_array([["1", " -2.5 ", "3e2", ".5", "", "x", "nan", "1e999", None, "1,5"]])
    expected = [1.0, -2.5, 300.0, 0.5, None, None, None, None, None, None]
    assert numbers(column).to_pylist() == expected


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.importers.reading._BLOCK_BYTES", 1 << 14)
    path = tmp_path / "big.csv"
    line = b"%07d," + b"x" * 190 + b"\n"
    with path.open("wb") as stream:
        stream.write(b"id,text\n")
        stream.writelines(line % number for number in range(100_000))
    before, peak, rows = pa.total_allocated_bytes(), [], 0
    for batch in read_columns(path, 2_000):
        rows += batch.rows.num_rows
        peak.append(pa.total_allocated_bytes() - before)
    assert rows == 100_000
    assert max(peak) < 3e6 < path.stat().st_size / 6  # a batch has 0.4 MB, some two dozen blocks have 0.4 MB


def test_the_first_pattern_that_matches_wins(tmp_path):
    for name in ("ratings.csv", "u.data.gz", "meta_u.data"):
        (tmp_path / name).write_text("1")
    source = Source(tmp_path, ("u.data",))
    assert source.main("u.data", "ratings.csv").name == "u.data.gz"
    assert source.main("*.data", besides="meta_").name == "u.data.gz"
    assert source.optional("u.item") is None

"""Rows of forgotten users are gone from committed tables and a user's own files; all others stay as they were."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schemas import DEAD_LETTERS, EVENTS, USERS
from features.workspace import Workspace, conform
from pipelines.batch.raw import UnreadableFileError
from pipelines.forgetting.given_files import forget_in_given_files
from pipelines.forgetting.tables import forget_in_tables

DAY_MS = 86_400_000


def events(users, day=0):
    rows = {
        "user_id": users,
        "item_id": [f"i{n}" for n in range(len(users))],
        "event": ["click"] * len(users),
        "timestamp": pa.array([day * DAY_MS + n for n in range(len(users))], pa.timestamp("ms", "UTC")),
    }
    return conform(pa.table(rows), EVENTS, "events")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_only_parts_with_the_user_are_written_anew(workspace):
    table = workspace.table("clean_events")
    parts = [
        table.write_part(events(["ann", "bob", "ann"]), shard=3, date="1970-01-01"),
        table.write_part(events(["bob", "eve"], 1), shard=0, date="1970-01-02"),
        table.write_part(events(["ann"], 2), shard=0, date="1970-01-03"),
    ]
    before = table.commit(parts, counts={"in": 6}, notes={"dataset": "x"})
    assert forget_in_tables(workspace, {"ann"}) == {"clean_events": 3}
    after = table.manifest()
    assert table.read().column("user_id").to_pylist() == ["bob", "bob", "eve"]
    assert parts[1] in after.files
    assert [file.path.split("/")[0] for file in after.files] == ["date=1970-01-01", "date=1970-01-02"]
    assert after.counts == {"in": 6, "forgotten": 3}
    assert after.notes == before.notes
    assert forget_in_tables(workspace, {"ann"}) == {}
    assert forget_in_tables(workspace, {"bob", "eve"}) == {"clean_events": 3}
    assert table.manifest().counts == {"in": 6, "forgotten": 6}
    assert table.read().num_rows == 0


def test_no_file_of_the_old_content_stays(workspace, tmp_path):
    table = workspace.table("clean_users")
    table.commit([table.write_part(conform(pa.table({"user_id": ["ann", "bob"]}), USERS, "users"), shard=0)])
    forget_in_tables(workspace, {"ann"})
    (file,) = tmp_path.rglob("*.parquet")
    assert pq.read_table(file).column("user_id").to_pylist() == ["bob"]


def test_rejected_rows_go_by_whom_they_name_or_by_text_where_they_cannot_be_read(workspace):
    rows = [
        json.dumps({"user_id": "ann", "item_id": "bob"}),
        json.dumps({"user_id": "bob", "item_id": "ann"}),  # an item may be called like a user
        '{"user_id": "ann", "ev',
        json.dumps({"item_id": "i1"}),
        json.dumps({"user_id": 7}),
    ]
    letters = {"table": ["events"] * 5, "reason": ["malformed"] * 5, "row": rows}
    table = workspace.table("dead_letters")
    table.commit([table.write_part(conform(pa.table(letters), DEAD_LETTERS, "dead_letters"), shard=0)])
    assert forget_in_tables(workspace, {"ann", "7"}) == {"dead_letters": 3}
    assert table.read().column("row").to_pylist() == [rows[1], rows[3]]


def write(workspace, name, content):
    workspace.write_bytes(content, "tables", "events", name)
    return workspace.local_path("tables", "events", name)


def test_json_lines_keep_every_other_line_as_it_was(workspace):
    kept = ['{ "user_id":"bob" , "item_id":"ann"}\r\n', "not json bob\n", '{"user_id": 8}']
    path = write(workspace, "a.jsonl.gz", gzip.compress("".join([kept[0], '{"user_id": "ann"}\n', *kept[1:]]).encode()))
    assert forget_in_given_files(workspace, {"ann"}) == {str(path): 1}
    assert gzip.decompress(path.read_bytes()).decode() == "".join(kept)
    assert forget_in_given_files(workspace, {"8"}) == {str(path): 1}


def test_json_lines_that_are_none_go_by_text(workspace):
    """They would be filed as dead letters at the next validation."""
    path = write(workspace, "a.jsonl", b'{"user_id": "ann", "ev\n{"user_id": "bob", "ev\n')
    assert forget_in_given_files(workspace, {"ann"}) == {str(path): 1}
    assert path.read_bytes() == b'{"user_id": "bob", "ev\n'


def test_csv_cells_may_be_long(workspace):
    rows = [f'{user},"{"x" * 200_000}"\n' for user in ("ann", "bob")]
    path = write(workspace, "a.csv", "".join(["user_id,context\n", *rows]).encode())
    assert forget_in_given_files(workspace, {"ann"}) == {str(path): 1}
    assert path.read_text() == "user_id,context\n" + rows[1]


@pytest.mark.parametrize(
    ("name", "content", "came"),
    [
        ("a.parquet", b"PAR1junk", "Parquet magic bytes not found"),
        ("a.jsonl.gz", gzip.compress(b'{"user_id": "ann"}\n' * 9, mtime=0)[:-9], "Truncated compressed stream"),
        ("a.csv", b"uid,item_id\n1,i1\n", "its columns are uid, item_id"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(workspace, name, content, came):
    path = write(workspace, name, content)
    with pytest.raises(UnreadableFileError, match=f"{path}: expected a complete file with .* failed: .*{came}.* again"):
        forget_in_given_files(workspace, {"ann"})
    assert path.read_bytes() == content


def test_json_lines_are_told_apart_as_they_are_read(workspace):
    """A byte order mark in front, and characters in texts at which Python splits lines and JSON does not."""
    first, second, other = (
        f'{{"user_id": "{user}", "item_id": "tea\u2028\x85cup"}}\n' for user in ("ann", "ann", "bob")
    )
    path = write(workspace, "a.jsonl", f"\ufeff{first}{other}{second}".encode())
    assert forget_in_given_files(workspace, {"ann"}) == {str(path): 2}
    assert path.read_bytes().decode() == other


def test_csv_records_may_span_lines_and_hold_any_bytes(workspace):
    head, ann, bob = "\ufeffitem_id,user_id,context\r\n", 'i1,ann,"two\nlines"\r\n', 'ann,bob,"a ""quoted""\ntext"\n'
    path = write(workspace, "b.csv", (head + ann + bob + "short\n").encode() + b"i3,\xff\xfe,x\n")
    assert forget_in_given_files(workspace, {"ann"}) == {str(path): 1}
    assert path.read_bytes() == (head + bob + "short\n").encode() + b"i3,\xff\xfe,x\n"


def test_parquet_files_keep_their_schema_and_ids_may_be_numbers(workspace):
    rows = pa.table({"user_id": pa.array([7, 8, None], pa.int32()), "extra": [1.0, 2.0, 3.0]})
    path = workspace.local_path("tables", "users", "mine.parquet")
    path.parent.mkdir(parents=True)
    pq.write_table(rows, path)
    assert forget_in_given_files(workspace, {"7"}) == {str(path): 1}
    assert pq.read_table(path).equals(rows.slice(1))


def test_files_without_the_user_are_not_touched(workspace):
    path = write(workspace, "c.csv", b"user_id,item_id\nbob,i1\n")
    stamp = path.stat().st_mtime_ns
    assert forget_in_given_files(workspace, {"ann"}) == {}
    assert path.stat().st_mtime_ns == stamp

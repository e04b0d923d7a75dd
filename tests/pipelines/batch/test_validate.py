"""`validate`: formats, times, bad rows, repeated ids, broken files."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_cases import START, event, write_events, write_file

from features.schemas import EVENTS
from pipelines.batch.checks import Checked, check_rows
from pipelines.batch.config import BatchConfig
from pipelines.batch.jobs import validate
from pipelines.batch.raw import RawBatch, UnreadableFileError, read_batches
from pipelines.batch.unread import unread_files

pytestmark = pytest.mark.integration

CONFIG = BatchConfig(shards=2)
ISO = "2024-03-01T00:00:00Z"
GOOD = "u1,i1,click,2024-03-01T00:00:00Z,,,,,\n"
HEADER = "user_id,item_id,event,timestamp,request_id,position,propensity,value,context\n"


def clean(workspace, table="clean_events"):
    return workspace.table(table).read().to_pylist()


def dead(workspace):
    return [(row["table"], row["reason"], row["detail"]) for row in clean(workspace, "dead_letters")]


def validate_csv(workspace, lines, **files):
    write_file(workspace, "events", "events.csv", HEADER + lines)
    write_file(workspace, "items", "items.csv", files.get("items", "item_id,title\ni1,One\n"))
    return validate(workspace, CONFIG)


def check_csv(workspace, lines):
    path = write_file(workspace, "events", "events.csv", HEADER + lines)
    results = [check_rows("events", batch) for batch in read_batches(workspace.filesystem, path)]
    return Checked(*(pa.concat_tables(tables) for tables in zip(*((r.rows, r.dead) for r in results), strict=True)))


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (",i1,click,0,,,,,", "null_id", "user_id: expected an id, got None"),
        ('u1," ",click,0,,,,,', "null_id", "item_id: expected an id, got ' '"),
        ("u1,i1,klick,0,,,,,", "unknown_event", "got 'klick'"),
        (
            "u1,i1,click,yesterday,,,,,",
            "bad_timestamp",
            "timestamp: expected a time from 1970 to 2099, got 'yesterday'",
        ),
        ("u1,i1,click,,,,,,", "bad_timestamp", "got None"),
        ("u1,i1,click,2024-02-30,,,,,", "bad_timestamp", "got '2024-02-30'"),
        ("u1,i1,click,2101-01-01T00:00:00Z,,,,,", "bad_timestamp", "got '2101-01-01T00:00:00Z'"),
        ("u1,i1,click,-5,,,,,", "bad_timestamp", "got '-5'"),
        ("u1,i1,purchase,0,,,,-0.01,", "negative_price", "value: expected a price >= 0, got '-0.01'"),
        ("u1,i1,impression,0,,,0,,", "bad_propensity", "propensity: expected a probability in (0, 1], got '0'"),
        ("u1,i1,impression,0,,,1.5,,", "bad_propensity", "got '1.5'"),
        ("u1,i1,impression,0,,,nan,,", "bad_propensity", "got 'nan'"),
        ("u1,i1,impression,0,,,often,,", "bad_propensity", "got 'often'"),
        ("u1,i1,click,0,,,,NaN,", "bad_value", "value: expected a finite number of at most 1e+12, got 'NaN'"),
        ("u1,i1,click,0,,,,cheap,", "bad_value", "got 'cheap'"),
        ("u1,i1,click,0,,-1,,,", "bad_value", "position: expected a whole number >= 0, got '-1'"),
        ("u1,i1,click,0,,1.5,,,", "bad_value", "got '1.5'"),
        ("u1,i1,click,0,,,,,{broken", "malformed", "got '{broken'"),
        ("u1,i1,click", "malformed", "expected 9 cells as in the header, got 3 (row 3)"),
        ("u1,i1,click,0,,,,often,", "bad_value", "got 'often' (row 3)"),
    ],
)
def test_a_bad_event_becomes_a_dead_letter(workspace, line, reason, detail):
    checked = check_csv(workspace, GOOD + line + "\n")
    assert checked.rows.num_rows == 1
    [row] = checked.dead.to_pylist()
    assert (row["table"], row["reason"]) == ("events", reason)
    assert detail in row["detail"]


def test_rows_in_equal_rows_out_plus_rejected(workspace):
    report = validate_csv(workspace, GOOD * 2 + ",i1,click,0,,,,,\nu1,i1,klick,0,,,,,\nu1,i1,click\n")
    assert {name: count for name, count in report.counts.items() if name.startswith("events")} == {
        "events.in": 5,
        "events.out": 1,
        "events.dropped.duplicate": 1,
        "events.dropped.malformed": 1,
        "events.dropped.null_id": 1,
        "events.dropped.unknown_event": 1,
    }
    assert Counter(reason for _, reason, _ in dead(workspace)).total() == 4
    assert workspace.table("clean_events").manifest().counts["in"] == 5


def test_a_row_with_two_faults_is_filed_once_with_its_content_and_source(workspace):
    validate_csv(workspace, GOOD + ",i1,klick,0,,,,,\n")
    [row] = clean(workspace, "dead_letters")
    assert row["reason"] == "null_id"
    assert json.loads(row["row"]) == {"item_id": "i1", "event": "klick", "timestamp": "0"}
    assert row["source"].endswith("tables/events/events.csv")


def test_bad_items_and_users(workspace):
    write_file(workspace, "users", "users.jsonl", '{"user_id": "u1", "attributes": {"age": 30}}\n{"user_id": null}\n')
    items = (
        "item_id,title,price,available\ni1,One,1,true\ni2,,1,\n,Three,1,\ni4,Four,-1,\ni5,Five,nan,\ni6,Six,1,maybe\n"
    )
    report = validate_csv(workspace, GOOD, items=items)
    reasons = Counter((table, reason) for table, reason, _ in dead(workspace))
    expected = [("malformed", 2), ("null_id", 1), ("negative_price", 1), ("bad_value", 1)]
    assert reasons == {("users", "null_id"): 1} | {("items", reason): count for reason, count in expected}
    assert [row["item_id"] for row in clean(workspace, "clean_items")] == ["i1"]
    assert clean(workspace, "clean_users") == [{"user_id": "u1", "attributes": [("age", "30")]}]
    assert report.counts["items.in"] == 6


def test_every_format_and_kind_of_time_gives_the_same_row(workspace):
    row = {"user_id": "u1", "item_id": "7", "event": "click", "context": {"page": "home"}, "value": 2.5}
    as_json = json.dumps({**row, "item_id": 7, "timestamp": START // 1000, "event_id": "a"}) + "\n"
    write_file(workspace, "events", "a.jsonl", as_json)
    write_file(workspace, "events", "b.jsonl.gz", gzip.compress(as_json.replace('"a"', '"b"').encode()))
    header = "event_id,user_id,item_id,event,timestamp,value,context\n"
    line = 'u1,7,click,2024-03-01T01:00:00+01:00,2.5,"{""page"": ""home""}"\n'
    write_file(workspace, "events", "c.csv", f"{header}c,{line}")
    write_file(workspace, "events", "d.csv.gz", gzip.compress(f"{header}d,{line}".encode()))
    for name, kind in (("e", pa.timestamp("ns")), ("f", pa.timestamp("s", tz="Europe/Berlin")), ("g", pa.int64())):
        times = pa.array([START], pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
        times = times.cast(pa.int64()) if kind == pa.int64() else times.cast(pa.timestamp("ms")).cast(kind)
        if name == "f":
            times = pa.array([START], pa.int64()).cast(pa.timestamp("ms", tz="UTC")).cast(kind)
        rows = {**{key: [value] for key, value in row.items()}, "event_id": [name], "timestamp": times, "item_id": [7]}
        pq.write_table(
            pa.table({**rows, "context": [row["context"]]}), workspace.path("tables", "events", f"{name}.parquet")
        )
    write_file(workspace, "items", "items.csv", "item_id,title,category\n7,Seven,Toys > Cars\n")
    validate(workspace, CONFIG)
    assert dead(workspace) == []
    events = clean(workspace)
    assert [row.pop("event_id") for row in events] == list("abcdefg")
    assert all(row == events[0] for row in events)
    assert (events[0]["item_id"], events[0]["context"]) == ("7", [("page", "home")])
    assert events[0]["timestamp"].isoformat() == "2024-03-01T00:00:00+00:00"
    assert clean(workspace, "clean_items")[0]["category"] == ["Toys", "Cars"]
    assert workspace.table("clean_events").files()[0].split("/")[-2] == "date=2024-03-01"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1709251200", START),
        ("1709251200000", START),
        ("2024-03-01", START),
        ("2024-03-01 00:00:00.250", START + 250),
        ("20240301T000000Z", START),
        ("0", 0),
    ],
)
def test_times_in_text(workspace, text, milliseconds):
    checked = check_csv(workspace, f"u1,i1,click,{text},,,,,\n")
    assert checked.rows.to_pylist()[0]["timestamp"].timestamp() * 1000 == milliseconds


def test_of_repeated_event_ids_the_earliest_is_kept_whatever_the_order(workspace):
    rows = [event("u1", "i1", "click", at, event_id="same", value=float(at)) for at in (300, 100, 200)]
    rows += [event("u1", "i1", "cart", 100, event_id="same", value=0.0)]
    for order in (rows, rows[::-1]):
        write_events(workspace, order, files=2)
        report = validate(workspace, CONFIG)
        [kept] = clean(workspace)
        assert (kept["event"], kept["value"]) == ("cart", 0.0)
        assert report.counts["events.dropped.duplicate"] == 3
    letters = clean(workspace, "dead_letters")
    assert {row["source"].split("/")[-1] for row in letters} == {"0.parquet", "1.parquet"}
    assert all(row["detail"].startswith("event_id 'same' occurs more than once; the first row was") for row in letters)


def test_an_event_without_id_is_named_by_its_content_and_repeats_are_dropped(workspace):
    lines = "u1,i1,click,0,,,,,\nu1,i1,click,0,,,,9,\nu1,i1,click,0,r1,,,,\nu1,i1,cart,0,,,,,\n"
    report = validate_csv(workspace, lines)
    assert report.counts["events.dropped.duplicate"] == 1
    ids = [row["event_id"] for row in clean(workspace)]
    assert len(set(ids)) == 3
    assert all(len(name) == 16 for name in ids)


def test_repeated_items_keep_the_earliest_available(workspace):
    items = f"item_id,title,available_from\ni1,B,\ni1,A,\ni1,Z,{ISO}\n"
    validate_csv(workspace, GOOD, items=items)
    assert [row["title"] for row in clean(workspace, "clean_items")] == ["Z"]


def test_rejects_of_an_importer_are_kept_with_the_dead_letters(workspace):
    rejects = workspace.table("import_rejects")
    row = {"table": "events", "reason": "cancellation", "detail": "C1", "source": "x.csv", "row": "{}"}
    rejects.commit([rejects.write_part(pa.Table.from_pylist([row], schema=rejects.schema), shard=0)])
    report = validate_csv(workspace, GOOD)
    assert clean(workspace, "dead_letters") == [row]
    assert report.counts["import_rejects.in"] == 1


def test_notes_of_a_raw_table_are_carried_on(workspace):
    write_file(workspace, "items", "items.csv", "item_id,title\ni1,One\n")
    events = workspace.table("events")
    rows = pa.Table.from_pylist([event("u1", "i1", "click", 0)], schema=EVENTS)
    events.commit([events.write_part(rows, shard=0)], notes={"dataset": "tiny", "order_only": True})
    validate(workspace, CONFIG)
    assert workspace.table("clean_events").manifest().notes == {"dataset": "tiny", "order_only": True}


def test_missing_tables_are_named_with_what_to_do(workspace):
    with pytest.raises(FileNotFoundError, match=r"no events and no items table: expected files .*pagewise simulate"):
        validate(workspace, CONFIG)


def test_a_table_without_rows_is_refused(workspace):
    with pytest.raises(ValueError, match=r"table 'events' has no rows.*events\.csv"):
        validate_csv(workspace, "")
    assert not workspace.table("clean_events").exists()


@pytest.mark.parametrize("name", ["part.parquet", "part.csv.gz", "part.jsonl.gz"])
@pytest.mark.parametrize(
    ("kept", "message"),
    [(0.0, r"the file is empty \(0 bytes\)"), (0.6, "expected a complete .* file.*truncated or corrupt")],
)
def test_a_truncated_file_is_refused_by_name(workspace, name, kept, message):
    path = write_file(workspace, "events", name, b"")
    lines = [json.dumps(event(f"u{number}", "i1", "click", number)) for number in range(2000)]
    if name.endswith("parquet"):
        rows = pa.Table.from_pylist([event("u1", "i1", "click", number) for number in range(2000)], schema=EVENTS)
        pq.write_table(rows, path)
        content = workspace.read_bytes("tables", "events", name)
    elif "csv" in name:
        content = gzip.compress((HEADER + "".join(f"u{n},i1,click,{n},,,,,\n" for n in range(2000))).encode())
    else:
        content = gzip.compress("\n".join(lines).encode())
    write_file(workspace, "events", name, content[: int(len(content) * kept)])
    with pytest.raises(UnreadableFileError, match=rf"{name}: {message}"):
        list(read_batches(workspace.filesystem, path))


def test_a_file_that_is_no_parquet_stops_the_stage_and_is_named(workspace):
    write_file(workspace, "items", "items.csv", "item_id,title\ni1,One\n")
    write_file(workspace, "events", "part.parquet", "PAR1 but nothing else")
    with pytest.raises(UnreadableFileError, match=r"^\S*/events/part.parquet: expected a complete parquet file"):
        validate(workspace, CONFIG)


def test_unknown_and_missing_columns_are_named(workspace):
    write_file(workspace, "items", "items.csv", "item_id,title\ni1,One\n")
    write_file(workspace, "events", "events.csv", "user,item_id,event,timestamp\nu1,i1,click,0\n")
    with pytest.raises(
        ValueError, match=r"events\.csv: missing columns: user_id; unknown columns: user; expected event_id"
    ):
        validate(workspace, CONFIG)


def test_parts_of_an_import_that_was_killed_are_no_files_of_the_user(workspace):
    events = workspace.table("events")
    rows = pa.Table.from_pylist([event("u1", "i1", "click", 0)], schema=EVENTS)
    events.write_part(rows, shard=0, date="2024-03-01")
    with pytest.raises(
        ValueError, match=r"'events' is unfinished: expected a .*part-00000-\w{8}\.parquet, got none.*run it again"
    ):
        validate(workspace, CONFIG)
    validate_csv(workspace, GOOD.replace("u1", "u2"))
    assert [row["user_id"] for row in clean(workspace)] == ["u2"]


def test_files_of_the_user_beside_a_committed_table_are_kept_and_named(workspace):
    path = write_file(workspace, "events", "mine.csv", HEADER + GOOD)
    write_file(workspace, "items", "items.csv", "item_id,title\ni1,One\n")
    events = workspace.table("events")
    rows = pa.Table.from_pylist([event("u1", "i1", "click", 0)], schema=EVENTS)
    events.commit([events.write_part(rows, shard=0)])
    with pytest.raises(
        ValueError, match=r"'events' is there twice: .*yours lie there, too: \S*/events/mine\.csv; move one"
    ):
        validate(workspace, CONFIG)
    assert [path] == [info.path for info in events.found_files() if info.path.endswith(".csv")]


def test_hidden_folders_hold_no_data(workspace):
    write_file(workspace, "events", ".ipynb_checkpoints/events-checkpoint.csv", HEADER + GOOD.replace("u1", "u2"))
    validate_csv(workspace, GOOD)
    assert [row["user_id"] for row in clean(workspace)] == ["u1"]


def test_a_key_that_later_lines_lack_is_a_null_there(workspace, monkeypatch):
    monkeypatch.setattr("pipelines.batch.raw.BATCH_ROWS", 1)
    good = {"user_id": "u1", "item_id": "i1", "event": "click", "timestamp": 0}
    lines = [good, {"item_id": "i1", "event": "click", "timestamp": 0}]
    path = write_file(workspace, "events", "events.jsonl", "\n".join(map(json.dumps, lines)))
    checked = [check_rows("events", batch) for batch in read_batches(workspace.filesystem, path)]
    assert [part.rows.num_rows for part in checked] == [1, 0]
    assert checked[1].dead.column("reason").to_pylist() == ["null_id"]


def test_an_empty_text_is_no_request_whatever_the_format(workspace):
    row = {**event("u1", "i1", "click", 0), "request_id": "", "event_id": "", "policy": ""}
    checked = check_rows("events", RawBatch(pa.Table.from_pylist([row], schema=EVENTS), [], "events.parquet"))
    [kept] = checked.rows.to_pylist()
    assert (kept["request_id"], kept["policy"]) == (None, None)
    assert len(kept["event_id"]) == 16


def test_a_header_with_a_name_twice_is_refused(workspace):
    path = write_file(workspace, "events", "events.csv", "user_id,item_id,event,timestamp,user_id\nu1,i1,click,0,u2\n")
    with pytest.raises(ValueError, match=r"events\.csv: expected distinct column names, got 'user_id' more than once"):
        list(read_batches(workspace.filesystem, path))


def test_users_that_are_gone_leave_no_clean_users(workspace):
    path = write_file(workspace, "users", "users.csv", "user_id\nu1\n")
    validate_csv(workspace, GOOD)
    assert workspace.table("clean_users").manifest().rows == 1
    workspace.filesystem.delete_file(path)
    validate_csv(workspace, GOOD)
    assert clean(workspace, "clean_users") == []


def rows_read(workspace, table, name, content):
    """Row and detail of each dead letter of one file, and how many rows were good."""
    path = write_file(workspace, table, name, content)
    checked = [check_rows(table, batch) for batch in read_batches(workspace.filesystem, path)]
    letters = pa.concat_tables(part.dead for part in checked).to_pylist()
    return sum(part.rows.num_rows for part in checked), [(row["reason"], row["detail"]) for row in letters]


def test_rows_of_a_csv_are_counted_as_a_table_program_does(workspace, monkeypatch):
    bad, short = "u1,i1,nod,0,,,,,\n", "u1\n"
    good, found = rows_read(workspace, "events", "a.csv", HEADER + GOOD + short + bad + GOOD * 100_000 + bad + short)
    assert good == 100_001
    rows = sorted(int(detail.rsplit("(row ", 1)[1].rstrip(")")) for _, detail in found)
    assert rows == [3, 4, 100_005, 100_006]


def test_rows_of_json_lines_are_its_lines(workspace):
    line = json.dumps({"user_id": "u1", "item_id": "i1", "event": "click", "timestamp": 0})
    lines = [line, "", "nonsense", line.replace('"u1"', "{}"), line.replace('"i1"', "7"), line.replace('"u1"', "true")]
    good, found = rows_read(workspace, "events", "a.jsonl", "\n".join(lines))
    assert good == 2
    assert [(reason, detail.rsplit("(", 1)[1]) for reason, detail in found] == [
        ("malformed", "row 3)"),
        ("bad_id", "row 4)"),
        ("bad_id", "row 6)"),
    ]
    assert found[0][1].startswith("expected a JSON object, got no JSON: Expecting value at character 1")


def test_rows_of_parquet_are_counted_from_one(workspace, monkeypatch):
    monkeypatch.setattr("pipelines.batch.raw.BATCH_ROWS", 2)
    path = write_file(workspace, "events", "a.parquet", b"")
    rows = [event("u1", "i1", "click" if number != 4 else "nod", number) for number in range(6)]
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), path)
    dead = [check_rows("events", batch).dead.to_pylist() for batch in read_batches(workspace.filesystem, path)]
    assert [row["detail"][-7:] for part in dead for row in part] == ["(row 5)"]


def test_a_repeated_row_tells_its_file_and_row(workspace):
    write_file(workspace, "events", "b.csv", HEADER + GOOD)
    write_file(workspace, "users", "users.csv", "user_id\n")
    validate_csv(workspace, "u2,i1,click,0,,,,,\n" + GOOD)  # of an equal row, that of the first file is kept
    [letter] = clean(workspace, "dead_letters")
    assert letter["source"].endswith("events/events.csv")
    assert letter["detail"].endswith("the first row was kept (row 3)")
    assert clean(workspace, "clean_users") == []  # a header alone is a table without rows, where it need not be there


def test_a_header_alone_is_checked_too(workspace):
    path = write_file(workspace, "users", "users.csv", "user\n")
    [batch] = read_batches(workspace.filesystem, path)
    with pytest.raises(ValueError, match=r"users\.csv: missing columns: user_id; unknown columns: user"):
        check_rows("users", batch)


def test_a_packed_file_of_nothing_is_empty(workspace):
    path = write_file(workspace, "users", "users.csv.gz", gzip.compress(b""))
    with pytest.raises(UnreadableFileError, match=r"users\.csv\.gz: the file is empty"):
        list(read_batches(workspace.filesystem, path))


@pytest.mark.parametrize(
    ("cell", "detail"),
    [
        ('"[""Toys"', """category: expected a list of texts; in CSV and other text as JSON, such as ["a", "b"] or"""),
        ("Toys > Cars", None),
        ('"[""Toys"", ""Cars""]"', None),
    ],
)
def test_a_list_in_a_csv(workspace, cell, detail):
    good, found = rows_read(workspace, "items", "items.csv", f"item_id,title,category\ni1,One,{cell}\n")
    assert (good, len(found)) == ((1, 0) if detail is None else (0, 1))
    assert detail is None or found[0][1].startswith(detail)


def test_a_list_of_items_in_a_csv_is_json(workspace):
    content = "request_id,user_id,timestamp,items,scores\nr1,u1,0,i1;i2,\nr2,u1,0,[7],1;2\n"
    good, found = rows_read(workspace, "served_pages", "pages.csv", content)
    assert good == 0
    assert found == [
        (
            "malformed",
            'items: expected a list of texts; in CSV and other text as JSON, such as ["a", "b"], got \'i1;i2\' (row 2)',
        ),
        (
            "bad_value",
            "scores: expected a list of numbers; in CSV and other text as JSON, such as [0.5, 0.25], got '1;2' (row 3)",
        ),
    ]


def test_files_that_nobody_reads_are_named(workspace):
    for table, name in (("served_pages", "x.txt"), ("pages", "mine.csv"), ("event", "a.csv"), ("event", "b.csv")):
        write_file(workspace, table, name, "a\n")
    write_file(workspace, "events", ".hidden.txt", "a\n")
    write_file(workspace, "events", "a.csv", HEADER + GOOD)
    warnings = unread_files(workspace)
    assert [line.split("tables/", 1)[1] for line in warnings] == [
        "event/a.csv and 1 more: your files belong into tables/ events, items, users, served_pages",
        "pages/mine.csv: Pagewise makes this table itself; pages that you showed belong into tables/served_pages",
        "served_pages/x.txt: expected names that end with .parquet, .jsonl, .jsonl.gz, .csv, .csv.gz",
    ]
    with pytest.raises(FileNotFoundError, match=r"no items table: .*warning: not read: \S*/event/a\.csv and 1 more"):
        validate(workspace, CONFIG)
    write_file(workspace, "items", "items.csv", "item_id,title\ni1,One\n")
    assert set(warnings) < set(validate(workspace, CONFIG).notes)

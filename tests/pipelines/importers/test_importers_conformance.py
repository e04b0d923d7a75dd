"""What holds for every importer."""

import gzip
import json

import pyarrow as pa
import pytest
from importer_cases import CASES

from features.schemas import EVENT_KINDS, RAW_TABLES
from features.workspace import Workspace
from pipelines.batch.config import BatchConfig
from pipelines.batch.jobs import validate
from pipelines.importers import IMPORTERS, import_dataset
from pipelines.importers.base import ImportOptions

pytestmark = pytest.mark.integration

MAIN_CASES = [
    *("s3rec", "online-retail", "rees46", "mind", "retailrocket"),
    *("amazon-2018", "movielens-100k", "open-bandit"),
]
TABLES = (*RAW_TABLES, "import_rejects")


def contents(workspace, ordered=True):
    """All tables as JSON rows, in the order they were written or sorted."""
    tables = {}
    for name in TABLES:
        table = workspace.table(name)
        rows = [json.dumps(row, default=str) for row in table.read().to_pylist()] if table.exists() else []
        tables[name] = rows if ordered else sorted(rows)
    return tables


def test_every_importer_has_a_case():
    assert {CASES[name].name for name in MAIN_CASES} == set(IMPORTERS)


@pytest.mark.parametrize("name", CASES)
def test_counts_and_contract(name, imported):
    case = CASES[name]
    report, workspace = imported(case)
    assert report.events == case.events
    assert report.counts["items.out"] == case.items
    assert {key: count for key, count in report.counts.items() if ".dropped." in key} == case.dropped
    events = workspace.table("events")
    assert events.read().num_rows == sum(case.events.values())
    assert set(events.read()["event"].to_pylist()) <= set(EVENT_KINDS)
    assert events.manifest().notes == {"dataset": case.name, "order_only": case.name == "s3rec"}
    titles = workspace.table("items").read()["title"].to_pylist()
    assert None not in titles


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost(name, imported):
    report, workspace = imported(CASES[name])
    rejects = workspace.table("import_rejects")
    kept = rejects.read()["reason"].to_pylist() if rejects.exists() else []
    merged = sum(count for key, count in report.counts.items() if key.endswith(".merged"))
    read = sum(count for key, count in report.counts.items() if key.endswith(".in"))
    written = sum(count for key, count in report.counts.items() if key.endswith(".out"))
    assert read == written + len(kept) + merged


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk_rows", [1, 3])
def test_chunks_do_not_matter(name, chunk_rows, imported):
    case = CASES[name]
    # A MIND chunk is written kind by kind, and rejects come reason by reason: the order of rows may differ, no more.
    _, whole = imported(case, "whole")
    _, pieces = imported(case, "pieces", options=ImportOptions(chunk_rows=chunk_rows))
    assert contents(pieces, ordered=False) == contents(whole, ordered=False)
    assert contents(pieces)["items"] == contents(whole)["items"]


def test_many_chunks_become_many_parts(imported):
    lines = []
    _, workspace = imported(CASES["rees46"], options=ImportOptions(chunk_rows=2), progress=lines.append)
    assert len(workspace.table("events").files()) == 3  # 7 whole lines in chunks of 2; the third chunk is all rejects
    assert lines[0] == "events: 3 read, 2 rows"  # the broken line comes with the first chunk of its block


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_are_equal_to_plain_ones(name, suffix, imported, tmp_path):
    case = CASES[name]
    _, plain = imported(case)
    folder = tmp_path / "compressed"
    folder.mkdir()
    for file, content in case.files.items():
        packed = gzip.compress(content) if suffix == ".gz" else pa.compress(content, "zstd", asbytes=True)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / (file + suffix)).write_bytes(packed)
    target = Workspace(tmp_path / "packed")
    import_dataset(case.name, folder, target)
    sourceless = [{**json.loads(row), "source": None} for row in contents(plain)["import_rejects"]]
    assert [{**json.loads(row), "source": None} for row in contents(target)["import_rejects"]] == sourceless
    assert all(contents(target)[table] == contents(plain)[table] for table in RAW_TABLES)


@pytest.mark.parametrize("name", MAIN_CASES)
def test_the_main_file_can_be_named(name, imported, tmp_path):
    case = CASES[name]
    _, by_folder = imported(case)
    target = Workspace(tmp_path / "by_file")
    import_dataset(case.name, tmp_path / "source" / case.main, target)
    assert contents(target) == contents(by_folder)


@pytest.mark.parametrize("name", IMPORTERS)
def test_missing_files_are_named(name, tmp_path):
    expected = IMPORTERS[name].files[0].split()[0]
    with pytest.raises(FileNotFoundError, match=f"nothing to import in {tmp_path}: expected {expected}"):
        import_dataset(name, tmp_path, Workspace(tmp_path / "workspace"))
    with pytest.raises(FileNotFoundError, match=f"nowhere does not exist: expected {expected}"):
        import_dataset(name, tmp_path / "nowhere", Workspace(tmp_path / "workspace"))


@pytest.mark.parametrize("name", MAIN_CASES)
@pytest.mark.parametrize("content", [b"", b"\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_named(name, content, tmp_path):
    case = CASES[name]
    source = case.write(tmp_path / "source")
    suffix = ".gz" if content[:2] == b"\x1f\x8b" else ""
    (source / case.main).unlink()
    (source / (case.main + suffix)).write_bytes(content)
    with pytest.raises(ValueError, match=case.main):
        import_dataset(case.name, source, Workspace(tmp_path / "workspace"))


@pytest.mark.parametrize("name", MAIN_CASES)
def test_a_truncated_file_is_named_and_leaves_the_workspace_as_it_was(name, imported, tmp_path):
    case = CASES[name]
    _, workspace = imported(case)
    before = contents(workspace)
    files = sorted(tmp_path.glob("workspace/tables/*/*"))
    (tmp_path / "source" / case.main).unlink()
    packed = gzip.compress(case.files[case.main])
    (tmp_path / "source" / f"{case.main}.gz").write_bytes(packed[: len(packed) - 9])
    with pytest.raises(ValueError, match=rf"{case.main}\.gz: reading failed: .*download it again"):
        import_dataset(case.name, tmp_path / "source", workspace, options=ImportOptions(chunk_rows=1))
    assert contents(workspace) == before
    assert sorted(tmp_path.glob("workspace/tables/*/*")) == files


def test_a_failed_first_import_leaves_no_parts(tmp_path):
    (tmp_path / "Beauty.txt").write_text("1 1 2\n2 1 2\n")
    (tmp_path / "Beauty.items.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"Beauty\.items\.jsonl: the file is empty"):
        import_dataset("s3rec", tmp_path, Workspace(tmp_path / "workspace"), options=ImportOptions(chunk_rows=1))
    assert not list(tmp_path.glob("workspace/tables/*/*"))


def test_another_data_set_replaces_all_tables(imported):
    imported(CASES["movielens-100k"])
    _, workspace = imported(CASES["s3rec-attributes"])
    assert workspace.table("users").manifest().rows == 0
    assert workspace.table("import_rejects").manifest().rows == 0
    assert workspace.table("events").manifest().notes["dataset"] == "s3rec"


@pytest.mark.parametrize("name", ["online-retail", "mind", "open-bandit"])
def test_validate_rejects_nothing_that_was_imported(name, imported):
    report, workspace = imported(CASES[name])
    counts = validate(workspace, BatchConfig(shards=1), []).counts
    assert counts["events.out"] == counts["events.in"] == report.counts["events.out"]
    assert counts["items.out"] == counts["items.in"] == report.counts["items.out"]


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'netflix'; known: amazon-reviews, mind, movielens"):
        import_dataset("netflix", tmp_path, Workspace(tmp_path / "workspace"))


def test_a_file_of_another_data_set_is_refused(tmp_path):
    (tmp_path / "retail.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"retail\.csv: missing columns: InvoiceNo, StockCode.* got a, b"):
        import_dataset("online-retail", tmp_path, Workspace(tmp_path / "workspace"))


def test_a_file_without_one_good_row_is_refused(tmp_path):
    (tmp_path / "Beauty.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match=r"not one event could be read \(2 events\.dropped\.malformed\)"):
        import_dataset("s3rec", tmp_path, Workspace(tmp_path / "workspace"))


def test_options_are_checked():
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        ImportOptions(chunk_rows=0)


def test_the_report_tells_all(imported):
    report, _ = imported(CASES["online-retail"])
    lines = report.lines()
    assert lines[0].startswith("import online-retail: ")
    assert lines[1] == "  events by kind: 3 purchase"
    assert lines[2].startswith("  events: 10 in, 3 out, 7 dropped (1 bad_timestamp, 1 bad_value, 1 cancellation,")


def test_what_a_killed_import_of_another_data_set_left_gives_way(imported):
    users = Workspace(imported(CASES["movielens-100k"], "whole")[1].root).table("users")
    killed = CASES["online-retail"]
    _, workspace = imported(killed)
    workspace.table("users").write_part(users.read(), shard=0)
    imported(killed)
    report = validate(workspace, BatchConfig(shards=1))
    assert "users.in" not in report.counts

"""The three stages on Beam: a case worked out by hand, independence of order and shards, idempotence, failures."""

from __future__ import annotations

import math
import shutil

import pytest
from batch_cases import DAY, HOUR, MINUTE, START, event, events_table, random_events, write_events, write_file

from features.workspace import MissingTableError, Workspace
from pipelines.batch.config import BatchConfig, PagesConfig, SplitConfig, TransitionsConfig
from pipelines.batch.jobs import build_features, build_sequences, validate
from pipelines.batch.raw import UnreadableFileError

pytestmark = pytest.mark.integration

DERIVED = ("clean_events", "pages", "item_statistics", "transitions", "sequences")
SPLIT = SplitConfig(validation_days=1, test_days=1)


def run_all(workspace, config, beam_options=()):
    return [stage(workspace, config, beam_options) for stage in (validate, build_features, build_sequences)]


def rows_of(workspace, name):
    """Rows as a multiset: part files of different shard counts hold them in different orders."""
    return sorted(workspace.table(name).read().to_pylist(), key=repr)


def fingerprints(workspace):
    return {name: workspace.table(name).manifest().fingerprint for name in DERIVED}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """u1 clicks a, b, c and u2 buys a, c on the first days; day 4 is validation, day 5 test."""
    rows = [
        event("u1", "a", "click", 0),
        event("u1", "b", "click", DAY),
        event("u1", "c", "click", 2 * DAY),
        event("u2", "a", "purchase", 0),
        event("u2", "c", "impression", DAY, request_id="r1", position=0, propensity=0.5, policy="shelf"),
        event("u2", "d", "impression", DAY, request_id="r1", position=1, propensity=0.25, policy="shelf"),
        event("u2", "c", "cart", DAY + MINUTE, request_id="r1"),
        event("u2", "c", "purchase", DAY + 2 * MINUTE, request_id="r1", value=9.5),
        event("u1", "d", "click", 3 * DAY + HOUR),
        event("u1", "a", "click", 4 * DAY + HOUR),
        event("u1", "d", "dislike", 4 * DAY + HOUR),
    ]
    workspace = Workspace(tmp_path_factory.mktemp("by_hand"))
    write_events(workspace, rows)
    run_all(workspace, BatchConfig(split=SPLIT, shards=2))
    return workspace


@pytest.fixture
def by_hand(finished, tmp_path):
    """A copy of `finished` for one test."""
    shutil.copytree(finished.root, tmp_path / "by_hand")
    return Workspace(tmp_path / "by_hand")


def test_pages_by_hand(by_hand):
    pages = {tuple(page["items"]): page for page in by_hand.table("pages").read().to_pylist()}
    assert sorted(pages) == [("a",), ("a", "d"), ("b",), ("c",), ("c", "d"), ("d",)]
    page = pages["c", "d"]
    assert (page["request_id"], page["user_id"], page["policy"]) == ("r1", "u2", "shelf")
    assert page["timestamp"].timestamp() * 1000 == START + DAY
    assert page["events"] == ["purchase", "impression"]
    assert [time.timestamp() * 1000 - START for time in page["event_times"]] == [DAY + 2 * MINUTE, DAY]
    assert (page["propensities"], page["values"]) == ([0.5, 0.25], [9.5, None])
    assert pages["b",]["propensities"] is None


def test_transitions_by_hand(by_hand):
    """n_a = n_c = 2, n_b = 1; W[a,b] = W[b,c] = 1, W[a,c] = 1/2 (u1, distance 2) + 1 (u2)."""
    found = {(row["item_id"], row["next_item_id"]): row["weight"] for row in rows_of(by_hand, "transitions")}
    assert found == pytest.approx(
        {
            ("a", "b"): 1 / math.sqrt((2 + 10) * (1 + 10)),
            ("b", "a"): 1 / 2 / math.sqrt((2 + 10) * (1 + 10)),
            ("b", "c"): 1 / math.sqrt((2 + 10) * (1 + 10)),
            ("c", "b"): 1 / 2 / math.sqrt((2 + 10) * (1 + 10)),
            ("a", "c"): (1 / 2 + 1) / (2 + 10),
            ("c", "a"): (1 / 2 + 1) / 2 / (2 + 10),
        }
    )


def test_item_statistics_by_hand(by_hand):
    rows = {row["item_id"]: row for row in rows_of(by_hand, "item_statistics")}
    assert sorted(rows) == ["a", "b", "c", "d"]
    counts = [rows["c"][name] for name in ("impressions", "clicks", "carts", "purchases", "dislikes", "users")]
    assert counts == [0, 1, 0, 1, 0, 2]
    assert (rows["d"]["impressions"], rows["d"]["popularity"]) == (1, 0.0)
    # The last training event is u1's click on c at day 2: u2's purchase is one day less two minutes older.
    age_days = 1 - 2 / (24 * 60)
    assert rows["c"]["recent_popularity"] == pytest.approx(1 + 0.5 ** (age_days / 30), abs=1e-9)


def test_sequences_by_hand(by_hand):
    rows = by_hand.table("sequences").read().to_pylist()
    found = {(row["user_id"], row["split"]): (row["page_lengths"], row["items"], row["events"]) for row in rows}
    assert found == {
        ("u1", "train"): ([1, 1, 1], ["a", "b", "c"], [1, 1, 1]),
        ("u1", "validation"): ([1], ["d"], [1]),
        ("u1", "test"): ([2], ["a", "d"], [1, 4]),
        ("u2", "train"): ([1, 2], ["a", "c", "d"], [3, 3, 0]),
    }
    notes = by_hand.table("sequences").manifest().notes
    assert notes["split"] == {
        "protocol": "time",
        "validation_ms": START + 3 * DAY,
        "test_ms": START + 4 * DAY,
    }


def test_leave_one_out_by_hand(by_hand):
    config = BatchConfig(split=SplitConfig(protocol="leave_one_out"), shards=2)
    build_sequences(by_hand, config)
    rows = by_hand.table("sequences").read().to_pylist()
    found = {(row["user_id"], row["split"]): row["items"] for row in rows}
    assert found == {
        ("u1", "train"): ["a", "b", "c"],
        ("u1", "validation"): ["d"],
        ("u1", "test"): ["a", "d"],
        ("u2", "train"): ["a", "c", "d"],
    }


def test_what_happens_after_the_end_of_its_split_is_not_visible(workspace):
    """The page of day 0 is bought from on day 1, the first validation day: not known when training."""
    late = [
        event("u1", "a", "click", DAY - MINUTE, request_id="r"),
        event("u1", "b", "impression", DAY - MINUTE, request_id="r"),
        event("u1", "b", "purchase", DAY + MINUTE, request_id="r"),
        event("u1", "c", "click", 2 * DAY),
    ]
    write_events(workspace, late)
    *_, report = run_all(workspace, BatchConfig(split=SPLIT, shards=1))
    assert rows_of(workspace, "sequences")[-1]["items"] == ["a"]
    assert [row["item_id"] for row in rows_of(workspace, "item_statistics")] == ["a"]
    assert report.counts["entries.dropped.after_split"] == 1


def test_dates_only_make_one_page_of_a_day(workspace):
    rows = [event("u1", item, "click", day * DAY) for item, day in (("b", 0), ("a", 0), ("c", 1), ("d", 2))]
    write_file(workspace, "items", "items.csv", "item_id,title\ni0,Item zero\n")
    events = workspace.table("events")
    events.commit([events.write_part(events_table(rows), shard=0)], notes={"dates_only": True})
    run_all(workspace, BatchConfig(split=SPLIT, shards=1))
    assert sorted(page["items"] for page in rows_of(workspace, "pages")) == [["a", "b"], ["c"], ["d"]]
    assert workspace.table("sequences").manifest().notes["dates_only"] is True


def test_rows_do_not_depend_on_order_files_or_shards(tmp_path):
    rows = random_events(seed=1, size=300, users=12, items=9)
    rows += [{**row, "value": 99.0} for row in rows[::10]]
    config = BatchConfig(pages=PagesConfig(cap=3), split=SPLIT, shards=3)
    workspaces = []
    for number, (order, files, shards) in enumerate([(1, 1, 3), (-1, 4, 3), (1, 2, 1)]):
        workspace = Workspace(tmp_path / str(number))
        write_events(workspace, rows[::order], files=files)
        run_all(workspace, BatchConfig(pages=config.pages, split=SPLIT, shards=shards))
        workspaces.append(workspace)
    first, reordered, one_shard = workspaces
    assert fingerprints(first) == fingerprints(reordered)
    for name in DERIVED:
        assert rows_of(first, name) == rows_of(one_shard, name)
    before = fingerprints(first)
    run_all(first, config)
    assert fingerprints(first) == before


def test_a_failed_run_leaves_the_tables_of_the_run_before(by_hand):
    before = by_hand.table("clean_events").read()
    write_file(by_hand, "events", "broken.parquet", b"PAR1")
    with pytest.raises(UnreadableFileError, match=r"broken\.parquet"):
        validate(by_hand, BatchConfig(shards=2))
    assert by_hand.table("clean_events").read().equals(before)
    build_features(by_hand, BatchConfig(split=SPLIT, shards=2))


def test_the_stages_ask_for_the_stage_before(workspace):
    with pytest.raises(MissingTableError, match="clean_events"):
        build_features(workspace, BatchConfig())
    with pytest.raises(MissingTableError, match="pages"):
        build_sequences(workspace, BatchConfig())


def test_events_that_were_all_rejected_are_refused(workspace):
    write_events(workspace, [])
    write_file(workspace, "events", "events.csv", "user_id,item_id,event,timestamp\n,i1,click,0\n")
    validate(workspace, BatchConfig(shards=1))
    with pytest.raises(ValueError, match="every event was rejected; table dead_letters tells why"):
        build_features(workspace, BatchConfig(shards=1))


def test_a_split_without_training_pages_is_refused(by_hand):
    config = BatchConfig(split=SplitConfig(validation_days=3, test_days=2), shards=2)
    message = (
        "3 validation and 2 test days leave no training pages of 5 days of data, from 2024-03-01 to 2024-03-05; let "
        "batch.split.validation_days and batch.split.test_days be 4 in sum at most, or hold out"
    )
    with pytest.raises(ValueError, match=message):
        build_sequences(by_hand, config)


def test_a_damaged_manifest_is_named(workspace):
    write_file(workspace, "clean_events", "manifest.json", "{}")
    message = r"tables/clean_events/manifest.json: expected what a stage wrote, but it is damaged \('files'\)"
    with pytest.raises(ValueError, match=message):
        build_features(workspace, BatchConfig(shards=1))


def test_one_day_of_data_cannot_be_split_by_days(workspace):
    write_file(workspace, "events", "events.csv", "user_id,item_id,event,timestamp\nu1,i1,click,1709251200000\n")
    write_file(workspace, "items", "items.csv", "item_id,title\ni1,Tea\n")
    report = validate(workspace, BatchConfig(shards=1))
    assert report.notes[-1] == "events happened from 2024-03-01 to 2024-03-01"
    message = "of 1 day of data, from 2024-03-01 to 2024-03-01; hold out every user's last pages: batch.split.protocol="
    with pytest.raises(ValueError, match=message):
        build_features(workspace, BatchConfig(shards=1))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--direct_running_mode=multi_threading", "silently loses rows"),
        ("--runner=DirectRunner", "expected FnApiRunner"),
    ],
)
def test_runners_that_lose_rows_or_download_are_refused(workspace, flag, message):
    write_events(workspace, [event("u1", "a", "click", 0)])
    with pytest.raises(ValueError, match=message):
        validate(workspace, BatchConfig(), [flag])


def test_several_processes_write_the_same_files(by_hand):
    before = fingerprints(by_hand)
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    build_sequences(by_hand, BatchConfig(split=SPLIT, shards=2), flags)
    assert fingerprints(by_hand) == before


def test_a_broken_file_is_named_by_other_processes_too(workspace):
    write_events(workspace, [event("u1", "a", "click", 0)])
    write_file(workspace, "events", "broken.parquet", b"PAR1")
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    with pytest.raises(UnreadableFileError, match=r"broken\.parquet: expected a complete parquet file"):
        validate(workspace, BatchConfig(shards=2), flags)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PagesConfig(gap_minutes=0, cap=0),
            r"gap_minutes: expected > 0, got 0; pages.cap: expected >= 1, got 0",
        ),
        (lambda: PagesConfig(popularity_half_life_days=-1), "popularity_half_life_days: expected > 0, got -1"),
        (lambda: SplitConfig(protocol="random", test_days=-1), "got 'random'; split.test_days: expected >= 0, got -1"),
        (lambda: TransitionsConfig(max_distance=0), "max_distance: expected 1 to 20, got 0"),
        (lambda: TransitionsConfig(smoothing=math.inf), "smoothing: expected a number >= 0, got inf"),
        (lambda: BatchConfig(shards=0), "shards: expected 1 to 65536, got 0"),
    ],
)
def test_config_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

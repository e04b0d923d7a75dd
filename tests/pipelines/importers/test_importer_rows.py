"""What the rows of each data set become, value by value."""

import datetime as dt
import json

import pytest
from importer_cases import CASES, Case

from features.workspace import Workspace
from pipelines.importers import import_dataset
from pipelines.importers.base import ImportOptions


def day(*numbers):
    return dt.datetime(*numbers, tzinfo=dt.UTC)


def rows(workspace, table, *columns):
    """The given columns of a table as tuples, in the order they were written."""
    return [tuple(row[column] for column in columns) for row in workspace.table(table).read().to_pylist()]


def by_id(workspace, table="items"):
    """A table's rows without nulls, by their id."""
    found = workspace.table(table).read().to_pylist()
    return {row[f"{table[:-1]}_id"]: {name: value for name, value in row.items() if value is not None} for row in found}


def test_s3rec_is_a_page_a_day(imported):
    _, workspace = imported(CASES["s3rec"])
    assert rows(workspace, "events", "user_id", "item_id", "timestamp", "request_id", "event") == [
        ("1", "1", day(2000, 1, 1), "1-1", "purchase"),
        ("1", "2", day(2000, 1, 2), "1-2", "purchase"),
        ("2", "2", day(2000, 1, 1), "2-1", "purchase"),
        ("2", "1", day(2000, 1, 2), "2-2", "purchase"),
        ("2", "3", day(2000, 1, 3), "2-3", "purchase"),
    ]
    assert by_id(workspace)["1"] == {
        "item_id": "1",
        "title": "Nail Polish",
        "category": ["Beauty", "Nails"],
        "brand": "OPI",
        "attributes": [("keywords", "nail")],
    }
    assert by_id(workspace)["2"] == {"item_id": "2", "title": "", "category": [], "attributes": [("keywords", "")]}


def test_s3rec_attributes_stand_in_for_text(imported):
    _, workspace = imported(CASES["s3rec-attributes"])
    assert by_id(workspace)["1"]["attributes"] == [("attributes", "rock; attribute8")]


def test_s3rec_one_of_several_data_sets_is_named_by_its_file(imported, tmp_path):
    source = CASES["s3rec-bare"].write(tmp_path / "source")
    with pytest.raises(ValueError, match=r"several data sets: Beauty\.txt, Toys\.txt; name one, .*Beauty"):
        imported(CASES["s3rec"])
    report = import_dataset("s3rec", source / "Toys.txt", Workspace(tmp_path / "toys"))
    assert report.counts["events.out"] == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "Toys.items.jsonl",
            '{"title": "A car"}\n',
            r"Toys\.items\.jsonl: expected JSON objects with an item_id.*A car",
        ),
        ("Toys_item2attributes.json", '{"1": [7', r"Toys_item2attributes\.json: reading failed"),
    ],
)
def test_s3rec_a_broken_file_of_items_is_named(tmp_path, name, content, message):
    source = CASES["s3rec-bare"].write(tmp_path / "source")
    (source / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        import_dataset("s3rec", source, Workspace(tmp_path / "toys"))
    assert not Workspace(tmp_path / "toys").table("events").exists()


def test_a_title_cut_inside_an_emoji_keeps_its_product(tmp_path):
    review = {"user_id": "u", "parent_asin": "B1", "rating": 5.0, "timestamp": 1588687728923}
    (tmp_path / "Toys.jsonl").write_text(json.dumps(review))
    (tmp_path / "meta_Toys.jsonl").write_text('{"parent_asin": "B1", "title": "A car \\ud83d"}')
    import_dataset("amazon-reviews", tmp_path, Workspace(tmp_path / "workspace"))
    assert rows(Workspace(tmp_path / "workspace"), "items", "title") == [("A car ?",)]


def test_a_header_with_a_name_twice_is_refused(tmp_path):
    (tmp_path / "events.csv").write_text("timestamp,visitorid,event,itemid,itemid\n1,2,view,3,4\n")
    with pytest.raises(ValueError, match=r"events\.csv: expected distinct column names, got 'itemid' more than once"):
        import_dataset("retailrocket", tmp_path, Workspace(tmp_path / "workspace"))


def test_online_retail_invoices_are_pages(imported):
    _, workspace = imported(CASES["online-retail"])
    morning = dt.timedelta(hours=8, minutes=26)
    assert rows(workspace, "events", "user_id", "item_id", "request_id", "timestamp", "value") == [
        ("17850", "A1", "536365", day(2010, 12, 1) + morning, 6 * 2.50 + 1 * 3.50),
        ("17850", "B2", "536365", day(2010, 12, 1) + morning, 2 * 4.00),
        ("13047", "A1", "536366", day(2010, 12, 1) + morning + dt.timedelta(minutes=2), 2 * 2.50),
    ]
    assert rows(workspace, "items", "item_id", "title", "price") == [
        ("A1", "RED MUG", 2.50),
        ("B2", "LAMP, BLUE", 4.00),
    ]


def test_rejects_hold_the_row_the_reason_and_the_file(imported):
    _, workspace = imported(CASES["online-retail"])
    first = workspace.table("import_rejects").read().to_pylist()
    cancelled = next(row for row in first if row["reason"] == "cancellation")
    assert (cancelled["table"], cancelled["source"]) == ("events", "retail.csv")
    assert json.loads(cancelled["row"])["InvoiceNo"] == "C536367"
    priceless = next(row for row in first if row["reason"] == "negative_price")
    assert priceless["detail"] == "UnitPrice: expected a number > 0"
    assert json.loads(priceless["row"])["UnitPrice"] == "0"  # as the file had it, not as it was parsed


def test_online_retail_of_the_second_edition_and_of_spreadsheets(imported):
    text = (
        "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\r\n"
        "489434,A1,\xa35 MUG,12,12/1/2009 7:45,6.95,13085.0,United Kingdom\r\n"
    )
    case = Case("online-retail", {"retail.csv": text.encode("latin-1")}, {}, 1)
    _, workspace = imported(case)
    assert rows(workspace, "events", "user_id", "timestamp", "value") == [
        ("13085", day(2009, 12, 1) + dt.timedelta(hours=7, minutes=45), 83.4)
    ]
    assert rows(workspace, "items", "title") == [("£5 MUG",)]


def test_rees46_sessions_are_pages(imported):
    _, workspace = imported(CASES["rees46"])
    assert rows(workspace, "events", "user_id", "item_id", "event", "request_id", "session_id", "value") == [
        ("1", "11", "click", "s1", "s1", None),
        ("1", "12", "click", "s1", "s1", None),
        ("1", "11", "cart", "s1", "s1", None),
        ("1", "11", "purchase", "s1", "s1", 33.0),
        ("2", "12", "click", "s2", "s2", None),
    ]
    assert rows(workspace, "items", "item_id", "title", "category", "brand", "price") == [
        ("11", "bosch mixer", ["appliances", "kitchen", "mixer"], "bosch", 33.0),
        ("12", "acme", ["902"], "acme", 9.0),
    ]


def test_mind_lists_are_pages_and_history_comes_before_the_first(imported):
    _, workspace = imported(CASES["mind"])
    events = rows(workspace, "events", "user_id", "item_id", "event", "request_id", "timestamp", "context")
    afternoon = day(2019, 11, 13) + dt.timedelta(hours=14, minutes=30)
    second = dt.timedelta(seconds=1)
    assert events[-2:] == [
        ("U1", "N1", "click", "U1-history-0", afternoon - 2 * second, [("history", "true")]),
        ("U1", "N2", "click", "U1-history-1", afternoon - second, [("history", "true")]),
    ]
    assert [event[1:4] for event in events if event[3] == "11"] == [
        ("N3", "impression", "11"),
        ("N4", "impression", "11"),
        ("N3", "click", "11"),
    ]
    assert {event[4] for event in events if event[3] == "12"} == {day(2019, 11, 13)}
    assert set(rows(workspace, "events", "position")) == {(None,)}
    assert rows(workspace, "items", "item_id", "title", "description", "category") == [
        ("N1", 'The "open', "A long day.", ["sports", "golf"]),
        ("N3", "Elections", None, ["news", "newsworld"]),
    ]


def test_retailrocket_items_have_their_latest_properties(imported):
    _, workspace = imported(CASES["retailrocket"])
    assert rows(workspace, "events", "user_id", "item_id", "event", "timestamp")[2] == (
        ("257597", "355908", "purchase", dt.datetime(2015, 6, 2, 5, 2, 12, 119000, tzinfo=dt.UTC))
    )
    assert by_id(workspace) == {
        "355908": {"item_id": "355908", "title": "355908", "category": ["140", "213", "1338"], "available": False},
        "206783": {"item_id": "206783", "title": "206783", "category": []},
    }


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("amazon-2018", [("R1", "B001", day(2009, 9, 13), 5.0), ("R2", "B001", day(2009, 9, 14), 1.0)]),
        (
            "amazon-2023",
            [
                ("R1", "P1", dt.datetime(2020, 5, 5, 14, 8, 48, 923000, tzinfo=dt.UTC), 4.0),
                ("R2", "P1", dt.datetime(2020, 5, 4, 18, 10, 55, 70000, tzinfo=dt.UTC), 2.0),
            ],
        ),
    ],
)
def test_amazon_reviews_are_purchases(name, events, imported):
    _, workspace = imported(CASES[name])
    assert rows(workspace, "events", "user_id", "item_id", "timestamp", "value") == events


def test_amazon_products(imported):
    _, workspace = imported(CASES["amazon-2018"])
    assert by_id(workspace)["B001"] == {
        "item_id": "B001",
        "title": "Red Lipstick",
        "description": "Very red",
        "category": ["Beauty", "Lips"],
        "brand": "Lux",
        "price": 12.99,
    }
    assert by_id(workspace)["B002"] == {"item_id": "B002", "title": "B002", "category": []}


def test_amazon_products_of_2023(imported):
    _, workspace = imported(CASES["amazon-2023"])
    assert by_id(workspace)["P1"] == {
        "item_id": "P1",
        "title": "Howard Polish",
        "category": ["Beauty", "Care"],
        "brand": "Howard",
        "price": 21.5,
        "attributes": [("Size", "8 oz")],
    }


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("movielens")])
def test_movielens_ratings(name, imported):
    _, workspace = imported(CASES[name])
    assert rows(workspace, "events", "user_id", "item_id", "event", "value", "timestamp") == [
        ("1", "10", "click", 5.0, dt.datetime(1997, 12, 4, 15, 55, 49, tzinfo=dt.UTC)),
        ("1", "20", "dislike", 2.0, dt.datetime(1997, 12, 4, 15, 55, 50, tzinfo=dt.UTC)),
        ("2", "10", "click", 3.0, dt.datetime(1997, 12, 4, 15, 55, 51, tzinfo=dt.UTC)),
    ]


def test_movielens_threshold(imported):
    report, _ = imported(CASES["movielens-1m"], options=ImportOptions(positive_rating=4.0))
    assert report.events == {"click": 1, "dislike": 2}


@pytest.mark.parametrize(
    ("name", "title", "attributes"),
    [
        (
            "movielens-100k",
            "Cité (1995)",
            [("genres", "Animation, Children's, Comedy"), ("release_date", "01-Jan-1995")],
        ),
        ("movielens-1m", "Cité (1995)", [("genres", "Animation, Children's, Comedy")]),
        ("movielens-csv", "Cité", [("genres", "Animation, Comedy")]),
        ("movielens-recbole", "The City", [("genres", "Animation, Comedy"), ("release_year", "1995")]),
    ],
)
def test_movielens_films(name, title, attributes, imported):
    _, workspace = imported(CASES[name])
    films = by_id(workspace)
    assert films["10"]["category"] == ["Animation"]
    assert films["10"]["attributes"] == attributes
    assert films["20"]["title"] == title


def test_movielens_users(imported):
    _, workspace = imported(CASES["movielens-100k"])
    assert by_id(workspace, "users")["1"]["attributes"] == [
        ("age", "24"),
        ("gender", "M"),
        ("occupation", "technician"),
        ("zip_code", "85711"),
    ]


def test_movielens_refuses_a_name_that_tells_no_layout(tmp_path):
    CASES["movielens-bare"].write(tmp_path)
    (tmp_path / "u.data").rename(tmp_path / "ratings.txt")
    with pytest.raises(ValueError, match=r"ratings\.txt: the name does not tell the layout; expected u\.data"):
        import_dataset("movielens", tmp_path / "ratings.txt", Workspace(tmp_path / "workspace"))

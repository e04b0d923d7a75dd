"""Small hand-written files of every data set, in the publishers' layouts, with what they should become."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

ONLINE_RETAIL = """\
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,A1,RED MUG,6,2010-12-01 08:26:00,2.50,17850,United Kingdom
536365,B2,"LAMP, BLUE",2,2010-12-01 08:26:00,4.00,17850,United Kingdom
536365,A1,RED MUG,1,2010-12-01 08:26:00,3.50,17850,United Kingdom
536366,A1,RED  MUG ,2,2010-12-01 08:28:00,2.50,13047,France
C536367,A1,RED MUG,-1,2010-12-01 09:00:00,2.50,13047,France
536368,B2,"LAMP, BLUE",1,2010-12-01 09:01:00,4.00,,France
536369,B2,damaged,-3,2010-12-01 09:02:00,4.00,13047,France
536369,B2,"LAMP, BLUE",3,2010-12-01 09:02:00,0,13047,France
536370,B2,"LAMP, BLUE",3,yesterday,4.00,13047,France
536371,,"LAMP, BLUE",3,2010-12-01 09:05:00,4.00,13047,France
"""

REES46 = """\
event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
2019-10-01 00:00:00 UTC,view,11,901,appliances.kitchen.mixer,bosch,35.79,1,s1
2019-10-01 00:00:05 UTC,view,12,902,,,10.00,1,s1
2019-10-01 00:01:00 UTC,cart,11,901,appliances.kitchen.mixer,bosch,35.79,1,s1
2019-10-01 00:02:00 UTC,purchase,11,901,appliances.kitchen.mixer,bosch,33.00,1,s1
2019-10-01 00:03:00 UTC,remove_from_cart,12,902,,,10.00,2,s2
2019-10-01 00:04:00 UTC,view,12,902,,,-1,2,s2
2019-10-01 00:05:00 UTC,view,12,902,,acme,9.00,2,s2
2019-10-01 00:06:00 UTC,view,11,90
"""

BEHAVIORS = """\
10	U1	11/15/2019 8:00:00 AM	N1 N2	N4-0 N5-0
11	U1	11/13/2019 2:30:00 PM	N1 N2	N3-1 N4-0
12	U2	11/13/2019 12:00:00 AM		N3-0 N4-1 N5
13	U3	13/45/2019 2:30:00 PM	N1	N3-0
14	U3
"""
NEWS = """\
N1	sports	golf	The "open	A long day.	https://a	[]	[]
N3	news	newsworld	Elections		https://b	[]	[]
"""

EVENTS_RETAILROCKET = """\
timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433221332118,257597,addtocart,355908,
1433221332119,257597,transaction,355908,4000
1433224214164,992329,view,248676,
1433224214165,992329,wish,248676,
soon,992329,view,248676,
"""
PROPERTIES = """\
timestamp,itemid,property,value
1435460400000,355908,categoryid,1338
1435460400000,355908,available,1
1436065200000,355908,available,0
1435460400000,355908,790,n552.000
1435460400000,206783,888,1116713
1435460400000,,888,1116713
"""
CATEGORY_TREE = """\
categoryid,parentid
1338,213
213,140
140,
"""

OPEN_BANDIT = """\
,timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user-item_affinity_0
0,2019-11-24 00:00:20.5+00:00,14,3,0,0.25,f0,f1,0.0
1,2019-11-24 00:00:21+00:00,2,1,1,0.5,f0,,1.0
2,2019-11-24 00:00:22+00:00,2,1,0,0,f0,f1,0.0
3,2019-11-24 00:00:23+00:00,2,1,yes,0.5,f0,f1,0.0
4,soon,2,1,0,0.5,f0,f1,0.0
5,2019-11-24 00:00:25+00:00,,1,0,0.5,f0,f1,0.0
6,2019-11-24
"""
ITEM_CONTEXT = """\
,item_id,item_feature_0,item_feature_1
0,2,-0.5,kind
1,3,0.5,
"""

REVIEWS_2018 = [
    {"reviewerID": "R1", "asin": "B001", "overall": 5.0, "unixReviewTime": 1252800000, "verified": True},
    {"reviewerID": "R2", "asin": "B001", "overall": 1.0, "unixReviewTime": 1252886400, "reviewText": "no"},
    {"reviewerID": "R2", "overall": 1.0, "unixReviewTime": 1252886400},
    {"reviewerID": "R3", "asin": "B002", "overall": "?", "unixReviewTime": 1252886400},
]
META_2018 = [
    {
        "asin": "B001",
        "title": "Red  Lipstick",
        "category": ["Beauty", "Lips"],
        "brand": "Lux",
        "price": "$12.99",
        "description": ["Very", "red"],
    },
    {"asin": "B001", "title": "Red Lipstick again"},
    {"asin": "B002", "title": "", "category": [], "price": ".a-box-inner{background-color:#fff}"},
]
REVIEWS_2023 = [
    {"user_id": "R1", "parent_asin": "P1", "asin": "B1", "rating": 4.0, "timestamp": 1588687728923},
    {"user_id": "R2", "parent_asin": "P1", "asin": "B2", "rating": 2.0, "timestamp": 1588615855070},
]
META_2023 = [
    {
        "parent_asin": "P1",
        "title": "Howard Polish",
        "categories": ["Beauty", "Care"],
        "store": "Howard",
        "price": 21.5,
        "description": [],
        "details": {"Size": "8 oz", "Rank": {"Beauty": 1}},
    }
]

RATINGS = [("1", "10", "5", "881250949"), ("1", "20", "2", "881250950"), ("2", "10", "3", "881250951")]


@dataclasses.dataclass(frozen=True)
class Case:
    """Files of one data set and the counts they lead to."""

    name: str
    files: dict[str, bytes]
    events: dict[str, int]
    """Events by kind."""
    items: int
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    """Count of each `<table>.dropped.<reason>`."""

    @property
    def main(self) -> str:
        """The file with the events."""
        return next(iter(self.files))

    def write(self, folder: Path) -> Path:
        """Write the files into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


def json_lines(records: list[dict[str, object]], extra: str = "") -> bytes:
    """Return records as JSON lines, perhaps with one more line."""
    return ("\n".join(json.dumps(record) for record in records) + "\n" + extra).encode()


def ratings(separator: str, header: str = "", broken: str = "") -> bytes:
    """Return `RATINGS` as delimited lines."""
    return (header + "".join(separator.join(row) + "\n" for row in RATINGS) + broken).encode()


U_ITEM = (
    "10|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "20|Cité (1995)|01-Jan-1995||http://y|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
)
SEQUENCE_ITEMS = [
    {
        "item_id": 1,
        "title": "Nail Polish",
        "categories": [["Beauty", "Nails"]],
        "attributes": ["Nails", "OPI"],
        "keywords": "nail",
    },
    {"item_id": 2, "title": None, "categories": [], "attributes": ["Unknown"], "keywords": None},
]

RATED = {"click": 2, "dislike": 1}

CASES: dict[str, Case] = {
    "s3rec": Case(
        "s3rec",
        {"Beauty.txt": b"1 1 2\n2 2 1 3\n3\n", "Beauty.items.jsonl": json_lines(SEQUENCE_ITEMS)},
        {"purchase": 5},
        2,
        {"events.dropped.malformed": 1},
    ),
    "s3rec-attributes": Case(
        "s3rec",
        {
            "LastFM.txt": b"1 1 2\n2 2\n",
            "LastFM_item2attributes.json": b'{"1": [7, 8, 7], "2": [8]}',
            "LastFM_attribute_names.json": b'{"7": "rock"}',
        },
        {"purchase": 3},
        2,
    ),
    "s3rec-bare": Case("s3rec", {"Toys.txt": b"1 1 2\n2 3\n"}, {"purchase": 3}, 3),
    "online-retail": Case(
        "online-retail",
        {"retail.csv": ONLINE_RETAIL.encode()},
        {"purchase": 3},
        2,
        {
            "events.dropped.merged": 1,
            "events.dropped.cancellation": 1,
            "events.dropped.no_customer": 1,
            "events.dropped.bad_value": 1,
            "events.dropped.negative_price": 1,
            "events.dropped.bad_timestamp": 1,
            "events.dropped.null_id": 1,
        },
    ),
    "rees46": Case(
        "rees46",
        {"2019-Oct.csv": REES46.encode()},
        {"click": 3, "cart": 1, "purchase": 1},
        2,
        {"events.dropped.unknown_event": 1, "events.dropped.negative_price": 1, "events.dropped.malformed": 1},
    ),
    "mind": Case(
        "mind",
        {"behaviors.tsv": BEHAVIORS.encode(), "news.tsv": NEWS.encode()},
        {"impression": 6, "click": 2 + 2},
        2,
        {"events.dropped.malformed": 2, "events.dropped.bad_timestamp": 1},
    ),
    "open-bandit": Case(
        "open-bandit",
        {"random/men/men.csv": OPEN_BANDIT.encode(), "random/men/item_context.csv": ITEM_CONTEXT.encode()},
        {"impression": 2, "click": 1},
        3,
        {
            "events.dropped.bad_propensity": 1,
            "events.dropped.bad_value": 1,
            "events.dropped.bad_timestamp": 1,
            "events.dropped.null_id": 1,
            "events.dropped.malformed": 1,
        },
    ),
    "retailrocket": Case(
        "retailrocket",
        {
            "events.csv": EVENTS_RETAILROCKET.encode(),
            "item_properties_part1.csv": PROPERTIES.encode(),
            "item_properties_part2.csv": b"timestamp,itemid,property,value\n1434000000000,355908,available,1\n",
            "category_tree.csv": CATEGORY_TREE.encode(),
        },
        {"click": 2, "cart": 1, "purchase": 1},
        2,
        {
            "events.dropped.unknown_event": 1,
            "events.dropped.bad_timestamp": 1,
            "items.dropped.null_id": 1,
            "items.dropped.merged": 4,
        },
    ),
    "retailrocket-subset": Case(
        "retailrocket",
        {
            "train_events.csv": b"user,item,behavior,timestamp\n0,3,view,1433221969\n"
            b"0,1,cart,1433222104\n0,3,buy,1433222105\n",
        },
        {"click": 1, "cart": 1, "purchase": 1},
        2,
    ),
    "amazon-2018": Case(
        "amazon-reviews",
        {"Luxury_Beauty_5.json": json_lines(REVIEWS_2018, "{cut\n"), "meta_Luxury_Beauty.json": json_lines(META_2018)},
        {"purchase": 2},
        2,
        {
            "events.dropped.malformed": 1,
            "events.dropped.null_id": 1,
            "events.dropped.bad_value": 1,
            "items.dropped.duplicate": 1,
        },
    ),
    "amazon-2023": Case(
        "amazon-reviews",
        {"All_Beauty.jsonl": json_lines(REVIEWS_2023), "meta_All_Beauty.jsonl": json_lines(META_2023)},
        {"purchase": 2},
        1,
    ),
    "movielens-100k": Case(
        "movielens",
        {
            "u.data": ratings("\t", broken="2\t10\n2\t10\tgood\t881250949\n"),
            "u.item": U_ITEM.encode("latin-1"),
            "u.user": b"1|24|M|technician|85711\n",
        },
        RATED,
        2,
        {"events.dropped.malformed": 1, "events.dropped.bad_value": 1},
    ),
    "movielens-1m": Case(
        "movielens",
        {
            "ratings.dat": ratings("::"),
            "movies.dat": "10::Toy Story (1995)::Animation|Children's|Comedy\n20::Cité (1995)::Drama\n".encode(
                "latin-1"
            ),
            "users.dat": b"1::M::24::12::85711\n",
        },
        RATED,
        2,
    ),
    "movielens-csv": Case(
        "movielens",
        {
            "ratings.csv": ratings(",", "userId,movieId,rating,timestamp\n"),
            "movies.csv": (
                'movieId,title,genres\n10,"Toy Story, (1995)",Animation|Comedy\n20,Cité,(no genres listed)\n'.encode()
            ),
        },
        RATED,
        2,
    ),
    "movielens-recbole": Case(
        "movielens",
        {
            "ml.inter": ratings("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"),
            "ml.item": (
                b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
                b"10\tToy Story\t1995\tAnimation Comedy\n20\tThe City\t1995\tDrama\n"
            ),
            "ml.user": b"user_id:token\tage:token\n1\t24\n",
        },
        RATED,
        2,
    ),
    "movielens-bare": Case("movielens", {"u.data": ratings("\t")}, RATED, 2),
}

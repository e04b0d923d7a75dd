"""`online-retail`: invoices of a British gift shop (UCI Online Retail; also the columns of Online Retail II).

An invoice is a page, each product on it a `purchase` whose value is quantity x unit price; lines of one product within
an invoice are merged. Cancellations, rows without a customer and rows whose quantity or price is not positive are
rejected. A product's title is its most frequent description, its price the median of its accepted rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import BAD_VALUE, CANCELLATION, EVENTS, NEGATIVE_PRICE, NO_CUSTOMER, PURCHASE, TIMESTAMP
from kernels.jagged import run_starts
from pipelines.batch.arrow import string_ranks
from pipelines.batch.parse import parse_values
from pipelines.batch.raw import RawBatch
from pipelines.importers.base import Chunk, ImportOptions, events_table, item_chunks
from pipelines.importers.reading import Source, numbers, read_columns
from pipelines.importers.sieve import Sieve

FILES = ("online_retail.csv (any name ending in .csv)",)
COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
_SECOND_EDITION = {"Invoice": "InvoiceNo", "Price": "UnitPrice", "Customer ID": "CustomerID"}
_SPREADSHEET_TIME = "%m/%d/%Y %H:%M"


def read(source: Source, options: ImportOptions) -> Iterator[Chunk]:
    """Yield the invoices as events, then the products bought on them."""
    catalogue = _Catalogue()
    open_invoice: pa.Table | None = None
    for raw in read_columns(source.main("*.csv"), options.chunk_rows):
        sieve = _accept(raw)
        catalogue.add(sieve.rows)
        rows = sieve.rows if open_invoice is None else pa.concat_tables([open_invoice, sieve.rows])
        whole = int(_invoice_starts(rows)[-1]) if rows.num_rows else 0
        open_invoice = rows.slice(whole)
        events = _events(rows.slice(0, whole))
        yield sieve.chunk(events, merged=whole - events.num_rows)
    if open_invoice is not None:
        events = _events(open_invoice)
        yield Chunk(table="events", rows=events, read=0, merged=open_invoice.num_rows - events.num_rows)
    yield from item_chunks(catalogue.items(), options.chunk_rows)


def _accept(raw: RawBatch) -> Sieve:
    rows = raw.rows.rename_columns([_SECOND_EDITION.get(name, name) for name in raw.rows.column_names])
    sieve = Sieve("events", RawBatch(rows, raw.broken_lines, raw.source), COLUMNS)
    sieve.reject_empty("InvoiceNo", "StockCode")
    sieve.reject(pc.starts_with(sieve.rows["InvoiceNo"], "C"), CANCELLATION, "InvoiceNo: starts with C")
    sieve.reject(sieve.rows["CustomerID"].is_null(), NO_CUSTOMER, "CustomerID: expected an id, got none")
    sieve.replace("CustomerID", pc.replace_substring_regex(sieve.rows["CustomerID"], r"\.0$", ""))
    for column, reason in (("Quantity", BAD_VALUE), ("UnitPrice", NEGATIVE_PRICE)):
        sieve.replace(column, numbers(sieve.rows[column]))
        sieve.reject(pc.less_equal(sieve.rows[column], 0), reason, f"{column}: expected a number > 0")
    sieve.replace_times("InvoiceDate", _times(sieve.rows["InvoiceDate"]))
    return sieve


def _times(column: pa.ChunkedArray) -> pa.Array:
    spreadsheet = pc.strptime(column, format=_SPREADSHEET_TIME, unit="ms", error_is_null=True)
    return pc.coalesce(parse_values(column.combine_chunks(), TIMESTAMP), spreadsheet.combine_chunks().cast(TIMESTAMP))


def _invoice_starts(rows: pa.Table) -> Any:
    return run_starts(string_ranks(rows["InvoiceNo"]))


def _events(rows: pa.Table) -> pa.Table:
    """Make events of whole invoices; an invoice has its first row's time."""
    if not rows.num_rows:
        return EVENTS.empty_table()
    starts = _invoice_starts(rows)
    invoice_R = np.repeat(np.arange(len(starts)), np.diff([*starts, rows.num_rows]))
    keyed = rows.append_column("invoice", pa.array(invoice_R)).append_column(
        "value", pc.multiply(rows["Quantity"], rows["UnitPrice"])
    )
    merged = keyed.group_by(["invoice", "StockCode"], use_threads=False).aggregate([("value", "sum")])
    first_R = pa.array(starts[np.asarray(merged["invoice"])])
    return events_table(
        {
            "user_id": rows["CustomerID"].take(first_R),
            "item_id": merged["StockCode"],
            "event": pa.array([PURCHASE] * merged.num_rows),
            "timestamp": rows["InvoiceDate"].take(first_R),
            "request_id": rows["InvoiceNo"].take(first_R),
            "value": np.round(np.asarray(merged["value_sum"]), 2),
        }
    )


class _Catalogue:
    """How often each product had each description and each price."""

    def __init__(self) -> None:
        self._titles: dict[str, Counter[str]] = defaultdict(Counter)
        self._prices: dict[str, Counter[float]] = defaultdict(Counter)

    def add(self, rows: pa.Table) -> None:
        """Count the products of some rows."""
        for column, counters in (("Description", self._titles), ("UnitPrice", self._prices)):
            counted = rows.group_by(["StockCode", column], use_threads=False).aggregate([([], "count_all")])
            for code, value, count in zip(*(part.to_pylist() for part in counted.columns), strict=True):
                counters[code][value] += count

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield the products in the order in which they were first bought."""
        for code, prices in self._prices.items():
            values, counts = (np.array(column) for column in zip(*sorted(prices.items()), strict=True))
            yield {
                "item_id": code,
                "title": self._title(code),
                "price": float(np.median(np.repeat(values, counts))),
            }

    def _title(self, code: str) -> str:
        titles = {" ".join(text.split()): count for text, count in self._titles[code].items() if text and text.strip()}
        return min(titles, key=lambda text: (-titles[text], text), default=code)

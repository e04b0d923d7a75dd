"""A small marketplace with planted structure, as tables of a workspace, and the bundle built from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.schemas import CART, EVENT_CODE, IMPRESSION, ITEMS, PURCHASE, SEQUENCES, TEST, TRAIN
from features.workspace import Workspace
from models.tokenizer.build import BundleReport, build_bundle
from models.tokenizer.config import SemanticIdConfig

ITEM_COUNT, CATEGORIES = 1200, 24
NANO = SemanticIdConfig(
    codes=64, iterations=10, balance_rounds=5, text_dimensions=32, collaborative_dimensions=16, max_vocabulary=5000
)
SPLIT = datetime(2026, 1, 31, tzinfo=UTC)


def shop_items(count: int = ITEM_COUNT) -> pa.Table:
    """Item n is of category n % 24; its title is two words of the category and four of the shop."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(count):
        category = number % CATEGORIES
        words = [f"kind{category}x{word}" for word in rng.integers(0, 6, 2)]
        words += [f"word{word}" for word in rng.integers(0, 300, 4)]
        rows.append(
            {
                "item_id": f"i{number:05d}",
                "title": " ".join(words),
                "category": ["shop", f"c{category}"],
                "brand": f"brand{rng.integers(0, 40)}",
            }
        )
    return pa.Table.from_pylist(rows, schema=ITEMS)


def sequence_row(user: str, split: str, items: list[str], event: str = PURCHASE, start: int = 0) -> dict[str, object]:
    """One user's pages of one item each, one a minute up to the split."""
    times = [int(SPLIT.timestamp() * 1000) - 60_000 * (len(items) - 1 - number - start) for number in range(len(items))]
    return {
        "user_id": user,
        "split": split,
        "page_ids": [f"{user}-{split}-{number}" for number in range(len(items))],
        "page_times": times,
        "page_lengths": [1] * len(items),
        "items": items,
        "events": [EVENT_CODE[event]] * len(items),
        "times": times,
    }


def shop_sequences() -> pa.Table:
    """600 users: for training six purchases in a category of their own and two anywhere, for test one anywhere."""
    rng = np.random.default_rng(8)
    rows = []
    for user in range(600):
        own = rng.choice(ITEM_COUNT // CATEGORIES, 6, replace=False) * CATEGORIES + user % CATEGORIES
        bought = rng.permutation([*own, *rng.integers(0, ITEM_COUNT, 2)])
        rows.append(sequence_row(f"u{user}", TRAIN, [f"i{item:05d}" for item in bought]))
        rows.append(sequence_row(f"u{user}", TEST, [f"i{rng.integers(ITEM_COUNT):05d}"], start=100))
    rows.append(sequence_row("shown", TRAIN, ["i00000", "i00001"], event=IMPRESSION))
    rows.append(sequence_row("cart", TRAIN, ["i00002", "unknown", "i00026"], event=CART))
    return pa.Table.from_pylist(rows, schema=SEQUENCES)


def make_workspace(folder: Path, items: pa.Table, sequences: pa.Table | None, **notes: object) -> Workspace:
    workspace = Workspace(folder)
    for name, rows in (("clean_items", items), ("sequences", sequences)):
        if rows is not None:
            table = workspace.table(name)
            table.commit([table.write_part(rows, shard=0)], notes=notes)
    return workspace


@pytest.fixture(scope="session")
def nano() -> SemanticIdConfig:
    """3 levels of 64 codes."""
    return NANO


@pytest.fixture(scope="session")
def items_table() -> pa.Table:
    """The shop's 1,200 items."""
    return shop_items()


@pytest.fixture(scope="session")
def sequences_table() -> pa.Table:
    """The shop's sequences."""
    return shop_sequences()


@pytest.fixture(scope="session")
def sequence_of() -> Callable[..., dict[str, object]]:
    """Makes one row of the table sequences of a user, a split and item ids."""
    return sequence_row


@pytest.fixture
def workspace_of(tmp_path: Path) -> Callable[..., Workspace]:
    """Makes a workspace of items, sequences and manifest notes."""
    return lambda items, sequences=None, **notes: make_workspace(tmp_path / "workspace", items, sequences, **notes)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, BundleReport]:
    """The shop with its first generation; read-only by agreement."""
    workspace = make_workspace(tmp_path_factory.mktemp("shop"), shop_items(), shop_sequences())
    return workspace, build_bundle(workspace, NANO, seed=3)


@pytest.fixture
def published(built: tuple[Workspace, BundleReport], tmp_path: Path) -> Workspace:
    """A copy of the built shop that a test may change."""
    shutil.copytree(built[0].root, tmp_path / "shop")
    return Workspace(tmp_path / "shop")

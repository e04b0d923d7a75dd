"""The shared table: pooling by hand, probes side by side, statistics, rows kept by a state dict."""

import numpy as np
import pytest
import torch

from features.columns import Columns, IdColumn
from models.embedding.plain import PlainTables
from models.ranker.config import RankerConfig
from models.ranker.encoding import encode
from models.ranker.layout import make_layout
from models.ranker.unified import INITIAL, TABLE, UnifiedEmbedding, Values, table_statistics

CONFIG = RankerConfig(rows=50, dimensions=4, probes=2, exact_limit=1)
COLUMNS = Columns(
    rows=3,
    ids={
        "tags": IdColumn(hashes=np.array([1, 2, 1, 3], np.uint64), offsets=np.array([0, 2, 4, 4])),
        "flag": IdColumn(hashes=np.array([9, 9], np.uint64), offsets=np.array([0, 1, 1, 2])),
    },
)
NOTHING = Columns(rows=0)
LAYOUT = make_layout(CONFIG, request=COLUMNS, item=NOTHING, moment=NOTHING, pair=NOTHING, history=())


def make():
    torch.manual_seed(0)
    return UnifiedEmbedding(4, LAYOUT, PlainTables(UnifiedEmbedding.table_specs(CONFIG)))


def look_up(embedding, columns=COLUMNS):
    encoded = encode(LAYOUT.request, columns, CONFIG.rows)
    (vectors,) = embedding(Values.of([(LAYOUT.request, encoded)], CONFIG.rows))
    return vectors


def test_each_slot_is_the_mean_of_its_values_and_probes_lie_side_by_side():
    embedding = make()
    weight = embedding.tables.state_dict()[f"collection.embeddings.{TABLE}.weight"]
    rows_VP = torch.from_numpy(LAYOUT.request.ids[0].rows(np.array([1, 2, 3], np.uint64), CONFIG.rows))
    one, two, three = (torch.cat([weight[row] for row in rows]) for rows in rows_VP)
    flag, nothing = embedding.exact.weight[1], torch.zeros(4)
    expected = torch.stack(
        [torch.cat([(one + two) / 2, flag]), torch.cat([(one + three) / 2, nothing]), torch.cat([0 * one, flag])]
    )
    torch.testing.assert_close(look_up(embedding), expected)


def test_sides_keep_their_own_rows():
    embedding = make()
    encoded = encode(LAYOUT.request, COLUMNS, CONFIG.rows)
    history = encode(LAYOUT.history_side, COLUMNS, CONFIG.rows)
    pairs = [(LAYOUT.request, encoded), (LAYOUT.history_side, history), (LAYOUT.request, encoded.take(np.array([1])))]
    first, none, second = embedding(Values.of(pairs, CONFIG.rows))
    assert (first.shape, none.shape, second.shape) == ((3, 12), (3, 0), (1, 12))
    torch.testing.assert_close(second[0], first[1])


def test_starts_small_and_unknown_values_start_at_zero():
    embedding = make()
    weight = next(embedding.tables.parameters())
    assert float(weight.detach().abs().max()) <= INITIAL
    assert float(weight.detach().abs().max()) > 0.8 * INITIAL
    assert embedding.exact.weight[LAYOUT.unknown_rows].abs().sum() == 0


def test_a_state_dict_keeps_the_rows_of_every_value():
    embedding, other = make(), UnifiedEmbedding(4, LAYOUT, PlainTables(UnifiedEmbedding.table_specs(CONFIG)))
    assert not torch.equal(look_up(embedding), look_up(other))
    other.load_state_dict(embedding.state_dict())
    assert torch.equal(look_up(embedding), look_up(other))


def test_statistics():
    statistics = table_statistics(CONFIG, LAYOUT, {"request": COLUMNS, "item": NOTHING, "moment": NOTHING})
    used = np.unique(LAYOUT.request.ids[0].rows(np.array([1, 2, 3], np.uint64), CONFIG.rows))
    assert statistics.vocabularies == {"tags": 3}
    assert (statistics.lookups, statistics.used_rows, statistics.exact_rows) == (6, len(used), 2)
    assert statistics.load == pytest.approx(6 / 50)
    assert "0.12 values x probes per row (tags 3); 2 exact rows" in statistics.lines()[0]

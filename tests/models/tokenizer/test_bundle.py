from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.schemas import ITEMS, SEQUENCES, TRAIN
from features.workspace import MissingTableError, Workspace
from models.tokenizer.append import encode_new
from models.tokenizer.build import BundleReport, build_bundle
from models.tokenizer.bundle import Bundle, MissingBundleError, generations
from models.tokenizer.config import SemanticIdConfig

pytestmark = pytest.mark.integration

Built = tuple[Workspace, BundleReport]
MakeWorkspace = Callable[..., Workspace]


def new_items(titles: dict[str, str]) -> pa.Table:
    rows = [{"item_id": item, "title": title, "category": ["shop", "c3"]} for item, title in titles.items()]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def test_the_nano_shop_is_healthy(built: Built) -> None:
    health = built[1].health
    assert health.items == 1200
    assert health.collision_rate < 0.1
    assert health.dead_codes == [0, 0, 0]
    assert min(health.perplexity_ratio) > 0.9
    assert health.category_purity is not None
    assert health.category_purity > 0.7  # 24 categories at random would give about 0.15
    assert any(built[1].generation in line for line in built[1].lines())


def test_first_codes_follow_what_people_want_together(built: Built) -> None:
    bundle = Bundle.load(built[0])
    category = np.array([int(item[1:]) % 24 for item in bundle.item_ids.to_pylist()])
    first = bundle.codes_NL[:, 0]
    same = (first[:, None] == first[None, :]) & ~np.eye(1200, dtype=bool)
    alike = category[:, None] == category[None, :]
    assert (same & alike).sum() > 0.6 * same.sum()


def test_load_gives_what_was_built(built: Built) -> None:
    workspace, report = built
    bundle = Bundle.load(workspace)
    assert bundle.generation == report.generation == workspace.read_bytes("semantic_ids", "LATEST").decode()
    assert bundle.generation.startswith("000001-")
    catalogue = bundle.catalogue()
    assert len(catalogue) == 1200
    assert catalogue.vocabulary.codes_per_level == (64, 64, 64)
    assert catalogue.item_ids.to_pylist() == sorted(catalogue.item_ids.to_pylist())
    assert bundle.vectors.shape == (1200, report.vector_width) == (1200, 32 + 16)
    assert bundle.vectors.dtype == np.float32
    error = np.square(bundle.vectors - bundle.quantizer.reconstruct(bundle.codes_NL)).sum()
    spread = np.square(bundle.vectors - bundle.vectors.mean(axis=0)).sum()
    assert error / spread == pytest.approx(report.health.reconstruction_error, rel=1e-2)


def test_every_file_of_the_layout_is_there(built: Built) -> None:
    folder = built[0].local_path("semantic_ids", built[1].generation)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "codes.parquet",
        "codebooks.safetensors",
        "vectors.safetensors",
        "encoder/vocabulary.json",
        "encoder/tfidf.safetensors",
        "encoder/regression.safetensors",
        "report.json",
        "plots/code_usage.png",
        "plots/items_per_id.png",
        "manifest.json",
    }
    assert json.loads((folder / "report.json").read_text())["items"] == 1200


def test_popularity_orders_the_items_of_one_id(published: Workspace) -> None:
    bundle = Bundle.load(published)
    same = dataclasses.replace(bundle, codes_NL=np.repeat(bundle.codes_NL[:400], 3, axis=0))
    first, second, third = same.item_ids.to_pylist()[:3]
    catalogue = same.catalogue({second: 5.0, third: 7.0})
    sid = catalogue.sid_of_item_N[0]
    behind = catalogue.ids(catalogue.items[catalogue.offsets[sid] : catalogue.offsets[sid + 1]])
    assert [item for item in behind if item in (first, second, third)] == [third, second, first]


def test_same_inputs_and_seed_give_the_same_generation(
    built: Built, published: Workspace, nano: SemanticIdConfig
) -> None:
    again = build_bundle(published, nano, seed=3)
    assert again.generation == built[1].generation
    assert generations(published) == [again.generation]
    other = build_bundle(published, nano, seed=4)
    assert generations(published) == [again.generation, other.generation]
    assert other.generation.startswith("000002-")
    assert Bundle.load(published).generation == other.generation
    assert Bundle.load(published, again.generation).generation == again.generation


def test_row_order_and_number_of_parts_do_not_matter(
    built: Built, workspace_of: MakeWorkspace, items_table: pa.Table, sequences_table: pa.Table, nano: SemanticIdConfig
) -> None:
    workspace = workspace_of(items_table, sequences_table)
    table = workspace.table("clean_items")
    shuffled = items_table.take(np.random.default_rng(0).permutation(items_table.num_rows))
    table.commit([table.write_part(shuffled.slice(0, 500), shard=0), table.write_part(shuffled.slice(500), shard=1)])
    assert build_bundle(workspace, nano, seed=3).generation == built[1].generation


def test_test_events_change_nothing(
    built: Built, workspace_of: MakeWorkspace, items_table: pa.Table, sequences_table: pa.Table, nano: SemanticIdConfig
) -> None:
    training = sequences_table.filter(pc.equal(sequences_table["split"], "train"))
    assert training.num_rows < sequences_table.num_rows
    workspace = workspace_of(items_table, training)
    assert build_bundle(workspace, nano, seed=3).generation == built[1].generation


def test_later_items_get_codes_but_teach_nothing(
    workspace_of: MakeWorkspace, items_table: pa.Table, sequences_table: pa.Table, nano: SemanticIdConfig
) -> None:
    end = pc.max(pc.list_flatten(sequences_table.filter(pc.equal(sequences_table["split"], "train"))["page_times"]))
    dates = [end.as_py() + timedelta(days=1 if row >= 1100 else 0) for row in range(1200)]
    column = items_table.schema.get_field_index("available_from")
    dated = items_table.set_column(column, ITEMS.field("available_from"), pa.array(dates, ITEMS.field(column).type))
    with_later = build_bundle(workspace_of(dated, sequences_table), nano, seed=3)
    later = Bundle.load(workspace_of(dated, sequences_table))
    build_bundle(workspace_of(dated.slice(0, 1100), sequences_table), nano, seed=3)
    without = Bundle.load(workspace_of(dated.slice(0, 1100), sequences_table))
    assert with_later.later_items == 100
    assert len(later.item_ids) == 1200
    np.testing.assert_array_equal(later.codes_NL[:1100], without.codes_NL)
    np.testing.assert_array_equal(later.quantizer.encode(later.encoder.encode(dated))[1100:], later.codes_NL[1100:])
    order_only = build_bundle(workspace_of(dated, sequences_table, order_only=True), nano, seed=3)
    assert order_only.later_items == 0


def test_extra_level_gives_each_item_its_own_id(published: Workspace, nano: SemanticIdConfig) -> None:
    few = dataclasses.replace(nano, levels=2, extra_level=True, max_collision_rate=1.0)
    report = build_bundle(published, few, seed=0)
    catalogue = Bundle.load(published).catalogue()
    assert report.health.collision_rate > 0.1
    assert catalogue.vocabulary.codes_per_level == (64, 64, 64)
    assert len(catalogue.sids_SL) == len(catalogue) == 1200
    appended = encode_new(Bundle.load(published), new_items({f"x{n}": "twin" for n in range(70)}))
    assert appended.overflow[-1] >= 70 - 64  # the last level can tell at most 64 items apart
    with pytest.raises(ValueError, match=r"extra_level: \d+ items share one semantic ID"):
        build_bundle(published, dataclasses.replace(few, codes=16), seed=0)


def test_other_quantiser_and_no_collaborative_part(
    workspace_of: MakeWorkspace, items_table: pa.Table, nano: SemanticIdConfig
) -> None:
    config = dataclasses.replace(nano, quantizer="rq_vae", vae_epochs=30, vae_hidden=64, collaborative_dimensions=0)
    workspace = workspace_of(items_table)
    report = build_bundle(workspace, config, seed=0)
    assert report.vector_width == 32
    assert report.health.dead_codes == [0, 0, 0]
    assert encode_new(Bundle.load(workspace), new_items({"x": "kind3x1 word2"})).codes_ML.shape == (1, 3)


def test_gates_keep_an_unhealthy_generation_out(published: Workspace, nano: SemanticIdConfig) -> None:
    before = generations(published)
    with pytest.raises(ValueError, match="is above max_collision_rate 0: raise codes"):
        build_bundle(published, dataclasses.replace(nano, levels=1, max_collision_rate=0), seed=0)
    assert generations(published) == before


def test_later_items_are_encoded_as_published_ones_were(published: Workspace) -> None:
    bundle = Bundle.load(published)
    new = encode_new(bundle, new_items({"x2": "kind3x1 word5", "x1": "kind3x4", "i00000": "moved?"}))
    assert new.items["item_id"].to_pylist() == ["x1", "x2"]
    vectors_MD = bundle.encoder.encode(new.items)
    np.testing.assert_array_equal(new.vectors_MD, vectors_MD)
    np.testing.assert_array_equal(new.codes_ML, bundle.quantizer.encode(vectors_MD))


def test_items_beyond_capacity_and_collisions_are_counted(published: Workspace) -> None:
    new = encode_new(Bundle.load(published), new_items({f"x{number}": "twin" for number in range(30)}))
    # all 30 go to one code per level, built for ceil(1.05 x 1200 / 64) = 20 items
    assert all(10 <= over <= 30 for over in new.overflow)
    assert new.collided == 30


def test_nothing_new_and_the_same_twice(published: Workspace) -> None:
    bundle = Bundle.load(published)
    assert encode_new(bundle, new_items({"i00000": "x"})).items.num_rows == 0
    with pytest.raises(ValueError, match="expected distinct item_id"):
        encode_new(bundle, pa.concat_tables([new_items({"x": "a"})] * 2))


def test_half_written_folders_do_not_exist(published: Workspace) -> None:
    published.write_bytes(b"", "semantic_ids", "000009-deadbeef", "codes.parquet")
    assert len(generations(published)) == 1
    assert len(Bundle.load(published).item_ids) == 1200


def test_missing_tables_and_generations_are_named(
    workspace_of: MakeWorkspace, items_table: pa.Table, built: Built
) -> None:
    workspace = workspace_of(items_table)
    with pytest.raises(MissingBundleError, match="run `pagewise semantic-ids`"):
        Bundle.load(workspace)
    with pytest.raises(MissingTableError, match="'sequences' does not exist"):
        build_bundle(workspace, SemanticIdConfig(codes=64), seed=0)
    with pytest.raises(MissingBundleError, match=f"'000007-0' is not in .*{built[1].generation}"):
        Bundle.load(built[0], "000007-0")


@pytest.mark.slow
def test_beauty_is_healthy(
    real_data: Path, workspace_of: MakeWorkspace, sequence_of: Callable[..., dict[str, object]]
) -> None:
    folder = real_data / "amazon14_s3rec"
    with gzip.open(folder / "Beauty.items.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    items = pa.Table.from_pylist(
        [{"item_id": str(row["item_id"]), "title": row["title"], "category": row["categories"][0]} for row in rows],
        schema=ITEMS,
    )
    with gzip.open(folder / "Beauty.txt.gz", "rt") as lines:
        users = [line.split()[1:-2] for line in lines]
    rows = [sequence_of(f"u{user}", TRAIN, bought) for user, bought in enumerate(users)]
    sequences = pa.Table.from_pylist(rows, schema=SEQUENCES)
    report = build_bundle(workspace_of(items, sequences), SemanticIdConfig(), seed=0)
    assert report.items == 12_101
    assert report.health.collision_rate < 0.12
    assert min(report.health.perplexity_ratio) > 0.95

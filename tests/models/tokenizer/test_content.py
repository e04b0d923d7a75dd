from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.content import GivenVectors, TfidfEncoder, item_terms, item_text, make_content_encoder, unit_rows

CONFIG = SemanticIdConfig(text_dimensions=4)
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "title": ["red nail polish", "blue nail polish", "steel hammer", "wooden hammer", "steel saw"],
        "category": [["beauty"], ["beauty"], ["tools"], ["tools"], ["tools", "saws"]],
    }
)


def write_vectors(path: Path, ids: list[str], vectors: list[list[float]]) -> Path:
    pq.write_table(pa.table({"item_id": ids, "vector": vectors}), path)
    return path


def test_terms_of_every_column() -> None:
    row = {
        "title": ["Steel saw"],
        "description": ["a 5x9 blade"],
        "brand": ["ACME"],
        "category": [["Tools", "Saws"]],
        "attributes": pa.array([[("z", "Big"), ("a", "Old")]], pa.map_(pa.string(), pa.string())),
    }
    words = ["steel", "saw", "steel saw", "5x9", "blade", "5x9 blade", "old", "big"]
    assert item_terms(pa.table(row)) == [[*words, "brand=acme", "category=tools", "category=tools/saws"]]


def test_text_of_an_item_leaves_out_what_is_missing() -> None:
    row = {"title": "Saw", "category": ["Tools", "Saws"], "brand": None, "attributes": [("size", "5")]}
    assert item_text(row) == "Saw. Tools > Saws. 5"


def test_similar_items_are_near_and_vectors_have_length_one() -> None:
    encoder = TfidfEncoder(CONFIG, seed=0)
    encoder.fit(ITEMS)
    vectors = encoder.encode(ITEMS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > 0.3 > 0.1 > abs(cosine[0, 2])
    assert cosine[2, 3] > 0.3 > 0.1 > abs(cosine[1, 3])


def test_an_item_of_unknown_words_has_length_zero() -> None:
    encoder = TfidfEncoder(CONFIG, seed=0)
    encoder.fit(ITEMS)
    assert encoder.encode(pa.table({"title": ["zzz"]})).tolist() == [[0, 0, 0, 0]]


def test_restored_tfidf_says_the_same_without_pickle() -> None:
    encoder, restored = TfidfEncoder(CONFIG, seed=0), TfidfEncoder(CONFIG, seed=0)
    encoder.fit(ITEMS)
    files = encoder.files()
    assert json.loads(files["vocabulary.json"])["hammer"] >= 0
    restored.restore(files)
    np.testing.assert_array_equal(restored.encode(ITEMS), encoder.encode(ITEMS))


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="set `source` to 'vectors'"):
        TfidfEncoder(CONFIG, seed=0).fit(pa.table({"title": ["", "-"]}))


def test_unit_rows_keep_zero() -> None:
    assert unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]


def test_given_vectors_follow_the_items(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "v.parquet", ["b", "a", "x"], [[0.0, 2.0], [5.0, 0.0], [1.0, 1.0]])
    encoder = make_content_encoder(SemanticIdConfig(source="vectors", source_path=str(path)), seed=0)
    assert encoder.encode(pa.table({"item_id": ["a", "b"]})).tolist() == [[1, 0], [0, 1]]


def test_mistakes_in_given_vectors_are_named(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "v.parquet", ["a", "b"], [[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match="2 of 3 have none, for example c, d"):
        GivenVectors(path).encode(pa.table({"item_id": ["a", "c", "d"]}))
    with pytest.raises(ValueError, match=r"vectors of one length, got \[1, 2\]"):
        GivenVectors(path).encode(pa.table({"item_id": ["a", "b"]}))
    pq.write_table(pa.table({"item": ["a"]}), path)
    with pytest.raises(ValueError, match="expected columns item_id and vector, got item"):
        GivenVectors(path).encode(pa.table({"item_id": ["a"]}))


def test_a_missing_source_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"found no /nowhere/v\.parquet"):
        make_content_encoder(SemanticIdConfig(source="vectors", source_path="/nowhere/v.parquet"), seed=0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights and a word vocabulary."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "nail", "polish", "steel", "hammer", "saw"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_sentence_model_pools_the_tokens_of_each_item(bert: Path) -> None:
    import torch

    from models.tokenizer.sentences import SentenceEncoder

    encoder = make_content_encoder(SemanticIdConfig(source="sentence_transformers", source_path=str(bert)), seed=0)
    assert isinstance(encoder, SentenceEncoder)
    titles = pa.table({"title": ["red nail polish", "saw"]})
    vectors = encoder.encode(titles)
    assert vectors.shape == (2, 16)
    # padding beside a longer text must not change an item's vector
    np.testing.assert_allclose(encoder.encode(titles.slice(1))[0], vectors[1], atol=1e-5)
    with torch.inference_mode():
        tokens = encoder.tokenizer("saw", return_tensors="pt")
        by_hand = encoder.model(**tokens).last_hidden_state[0].mean(dim=0).numpy()
    np.testing.assert_allclose(vectors[1], by_hand / np.linalg.norm(by_hand), atol=1e-5)


def test_a_changed_sentence_model_is_refused(bert: Path) -> None:
    from models.tokenizer.sentences import SentenceEncoder

    encoder = SentenceEncoder(bert)
    files = encoder.files()
    encoder.restore(files)
    (bert / "note.txt").write_text("changed")
    with pytest.raises(ValueError, match="put the old model back or build a new generation"):
        encoder.restore(files)

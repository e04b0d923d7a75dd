"""Content vectors: what an item says about itself, as one vector of length 1.

Legend: `N` items, `D` width of a content vector.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load, save
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from models.tokenizer.config import SENTENCE_TRANSFORMERS, TFIDF, SemanticIdConfig

Floats = npt.NDArray[np.float32]
_WORD = re.compile(r"\w\w+")


class ContentEncoder(Protocol):
    """Turns rows of the items table into content vectors: TF-IDF, a sentence model or given vectors."""

    def fit(self, items: pa.Table) -> None:
        """Learn what the encoder needs from items known before the split."""
        ...

    def encode(self, items: pa.Table) -> Floats:
        """Return `[N, D]` vectors of length 1; an item that says nothing has length 0."""
        ...

    def files(self) -> dict[str, bytes]:
        """Return what `restore` needs, by file name; no pickle."""
        ...

    def restore(self, files: dict[str, bytes]) -> None:
        """Take over what `files` returned."""
        ...


def make_content_encoder(config: SemanticIdConfig, seed: int) -> ContentEncoder:
    """Return the untrained encoder that the configuration names."""
    if config.source == TFIDF:
        return TfidfEncoder(config, seed)
    path = Path(str(config.source_path))
    if not path.exists():
        raise FileNotFoundError(f"source_path: expected the local files of source {config.source!r}, found no {path}")
    if config.source == SENTENCE_TRANSFORMERS:
        from models.tokenizer.sentences import SentenceEncoder

        return SentenceEncoder(path)
    return GivenVectors(path)


class TfidfEncoder:
    """TF-IDF of an item's terms, reduced by a truncated SVD (latent semantic analysis); nothing is downloaded.

    Args:
        config: `max_vocabulary` terms, `text_dimensions` columns (fewer where items or terms are fewer).
        seed: Of the randomised SVD.
    """

    def __init__(self, config: SemanticIdConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.vectorizer = self._vectorizer()
        self.components_DV: Floats = np.empty((0, 0), np.float32)

    def fit(self, items: pa.Table) -> None:
        """Learn vocabulary, document frequencies and the SVD."""
        terms = item_terms(items)
        if not any(terms):
            raise ValueError("content: expected items with some text, got none with a title; set `source` to 'vectors'")
        matrix_NV = self.vectorizer.fit_transform(terms)
        dimensions = min(self.config.text_dimensions, *matrix_NV.shape)
        svd = TruncatedSVD(dimensions, n_iter=7, random_state=self.seed)
        self.components_DV = svd.fit(matrix_NV).components_.astype(np.float32)

    def encode(self, items: pa.Table) -> Floats:
        """Return the `[N, D]` vectors."""
        return unit_rows(self.vectorizer.transform(item_terms(items)) @ self.components_DV.T)

    def files(self) -> dict[str, bytes]:
        """Return the vocabulary as JSON, IDF and SVD as safetensors."""
        vocabulary = {term: int(column) for term, column in sorted(self.vectorizer.vocabulary_.items())}
        tensors = {"idf": self.vectorizer.idf_.astype(np.float32), "components": self.components_DV}
        return {
            "vocabulary.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
            "tfidf.safetensors": save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}),
        }

    def restore(self, files: dict[str, bytes]) -> None:
        """Take over vocabulary, IDF and SVD."""
        tensors = load(files["tfidf.safetensors"])
        self.vectorizer = self._vectorizer(vocabulary=json.loads(files["vocabulary.json"]))
        self.vectorizer.idf_ = tensors["idf"]
        self.components_DV = tensors["components"]

    def _vectorizer(self, **options: Any) -> TfidfVectorizer:
        return TfidfVectorizer(
            analyzer=_as_is, max_features=self.config.max_vocabulary, sublinear_tf=True, dtype=np.float32, **options
        )


class GivenVectors:
    """Vectors somebody else made, read from a Parquet file with the columns item_id and vector.

    Args:
        path: The file; it must hold every item of the catalogue, and later every appended one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fit(self, items: pa.Table) -> None:
        """Nothing is learned."""

    def encode(self, items: pa.Table) -> Floats:
        """Return the items' rows of the file, scaled to length 1.

        Raises:
            ValueError: A column or an item is missing, or vectors differ in length.
        """
        table = pq.read_table(self.path)
        if not {"item_id", "vector"} <= set(table.column_names):
            raise ValueError(f"{self.path}: expected columns item_id and vector, got {', '.join(table.column_names)}")
        row_of = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
        wanted = items["item_id"].to_pylist()
        missing = [item for item in wanted if item not in row_of]
        if missing:
            raise ValueError(
                f"{self.path}: expected a vector for each item, {len(missing)} of {len(wanted)} have none, "
                f"for example {', '.join(missing[:3])}"
            )
        vectors = table["vector"].take(pa.array([row_of[item] for item in wanted])).combine_chunks()
        flat = np.asarray(vectors.flatten(), np.float32)
        width = len(flat) // max(len(wanted), 1)
        if set(np.unique(vectors.value_lengths())) - {width}:
            raise ValueError(
                f"{self.path}: expected vectors of one length, got {np.unique(vectors.value_lengths()).tolist()}"
            )
        return unit_rows(flat.reshape(len(wanted), width))

    def files(self) -> dict[str, bytes]:
        """Return nothing: the vectors of published items are in the bundle."""
        return {}

    def restore(self, files: dict[str, bytes]) -> None:
        """Nothing was learned."""


def item_terms(items: pa.Table) -> list[list[str]]:
    """Return each item's terms: words and pairs of words; brand and each prefix of the category as terms of their own.

    Example:
        >>> item_terms(pa.table({"title": ["Red nail polish"], "brand": ["OPI"], "category": [["Beauty", "Nails"]]}))
        [['red', 'nail', 'polish', 'red nail', 'nail polish', 'brand=opi', 'category=beauty', 'category=beauty/nails']]
    """
    return [_terms(row) for row in text_columns(items)]


def item_text(row: dict[str, Any]) -> str:
    """Return one item as a line of natural text, most telling part first."""
    attributes = [value for _, value in sorted(row.get("attributes") or [])]
    parts = [
        row.get("title"),
        " > ".join(row.get("category") or []),
        row.get("brand"),
        *attributes,
        row.get("description"),
    ]
    return ". ".join(part for part in parts if part)


def text_columns(items: pa.Table) -> list[dict[str, Any]]:
    """Return the columns that describe an item, row by row."""
    rows: list[dict[str, Any]] = items.select(
        [name for name in _TEXT_COLUMNS if name in items.column_names]
    ).to_pylist()
    return rows


def unit_rows(vectors_ND: npt.NDArray[np.floating]) -> Floats:
    """Scale rows to length 1; rows of length 0 stay 0."""
    norms = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.where(norms > 0, norms, 1), np.float32)


def _terms(row: dict[str, Any]) -> list[str]:
    attributes = [value for _, value in sorted(row.get("attributes") or [])]
    terms: list[str] = []
    for text in [row.get("title"), row.get("description"), *attributes]:
        words = _WORD.findall((text or "").lower())
        terms += words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
    if row.get("brand"):
        terms.append(f"brand={row['brand'].lower()}")
    path = [name.lower() for name in row.get("category") or []]
    return terms + [f"category={'/'.join(path[:depth])}" for depth in range(1, len(path) + 1)]


def _as_is(terms: list[str]) -> list[str]:
    return terms


_TEXT_COLUMNS = ("title", "description", "category", "brand", "attributes")

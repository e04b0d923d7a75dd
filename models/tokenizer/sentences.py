"""Content vectors from a local sentence-transformers folder: a Hugging Face encoder with mean pooling, offline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModel, AutoTokenizer

from models.tokenizer.content import Floats, item_text, text_columns, unit_rows

MAX_TOKENS = 128
BATCH = 64


class SentenceEncoder:
    """Mean of the last hidden states over an item's tokens, scaled to length 1.

    Args:
        folder: A local model folder (config, weights, tokenizer); nothing is fetched. The bundle keeps its digest, not
            its weights: the folder must still be there, unchanged, when items are appended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def fit(self, items: pa.Table) -> None:
        """Nothing is learned."""

    @torch.inference_mode()
    def encode(self, items: pa.Table) -> Floats:
        """Return the `[N, D]` vectors."""
        texts = [item_text(row) for row in text_columns(items)]
        pooled = [np.empty((0, self.model.config.hidden_size), np.float32)]
        for start in range(0, len(texts), BATCH):
            batch = self.tokenizer(
                texts[start : start + BATCH], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            mask = batch["attention_mask"].unsqueeze(-1)
            hidden = self.model(**batch).last_hidden_state
            pooled.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().numpy())
        return unit_rows(np.concatenate(pooled))

    def files(self) -> dict[str, bytes]:
        """Return the digest of the model folder."""
        return {"sentences.json": json.dumps({"digest": self._digest()}).encode()}

    def restore(self, files: dict[str, bytes]) -> None:
        """Check that the folder still holds the model the bundle was made with.

        Raises:
            ValueError: It does not.
        """
        expected = json.loads(files["sentences.json"])["digest"]
        if expected != self._digest():
            raise ValueError(
                f"source_path: the model in {self.folder} has digest {self._digest()}, but the bundle was made with "
                f"{expected}; put the old model back or build a new generation"
            )

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                digest.update(path.name.encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

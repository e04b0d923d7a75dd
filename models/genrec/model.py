"""GenRec: the decoder over packed semantic-ID sequences, with the Token Merger on the prompt side.

Legend: `B` rows, `T` places, `D` width, `H` history items, `L` levels, `C` codes of a level, `M` response items.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from features.schemas import EVENT_KINDS
from features.semantic_ids import SidVocabulary
from kernels.dropout import Dropout
from kernels.packed_attention import PackedRows
from kernels.rms_norm import rms_norm
from models.embedding.plain import PlainTables
from models.embedding.spec import TableSpec
from models.genrec.batch import PackedBatch
from models.genrec.config import GenRecConfig
from models.genrec.data import GAP_BUCKETS
from models.genrec.item_level import ItemLevel
from models.genrec.layers import Block, KeyValue, RMSNorm, Rotation, rotation
from models.genrec.loss import page_loss, target_loss

ITEM_TABLE = "item"


class TokenMerger(nn.Module):
    """Map the `L` token vectors of a history item to one: `h = W concat(e_1 .. e_L)` (arXiv 2604.14878, section 2.3).

    `W` starts as `[I/L ... I/L]`, the mean of the tokens.
    """

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(levels * width, width, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(width).repeat(1, levels) / levels)

    def forward(self, vectors_HLD: Tensor) -> Tensor:
        """Return one vector per item, `[H, D]`."""
        merged: Tensor = self.linear(vectors_HLD.flatten(1))
        return merged


class Decoder(nn.Module):
    """Token embedding, blocks and final norm; parameter names as in `Qwen2Model`."""

    def __init__(self, config: GenRecConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)

    def blocks(self) -> list[Block]:
        """Return the blocks in order."""
        return cast(list[Block], list(self.layers))


class GenRec(nn.Module):
    """Decoder-only generative recommender over semantic IDs.

    Args:
        config: Shape of the model.
        vocabulary: Tokens of the semantic IDs.
        items: Rows of the item table: catalogue items at training time.
        tables: Large tables, `PlainTables` by default; TorchRec's twin has the same state dict.
        vector_width: Width of the catalogue's item vectors; not used without `item_vectors`.
    """

    def __init__(
        self,
        config: GenRecConfig,
        vocabulary: SidVocabulary,
        items: int,
        tables: nn.Module | None = None,
        vector_width: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.items = items
        self.model = Decoder(config, vocabulary.size)
        self.lm_head = nn.Linear(config.width, vocabulary.size, bias=False)
        self.merger = TokenMerger(vocabulary.levels, config.width) if config.merge_history else None
        self.event_embedding = nn.Embedding(len(EVENT_KINDS), config.width)
        self.history_gap_embedding = nn.Embedding(GAP_BUCKETS, config.width)
        self.page_gap_embedding = nn.Embedding(GAP_BUCKETS, config.width)
        self.dropout = Dropout(config.dropout)
        self.held_until = 0.0
        self._initialise()
        # Starts at zero, as if there were no user vectors, and is made last: without it nothing else is drawn anew.
        self.user_projection: nn.Linear | None = None
        if config.user_prefix:
            self.user_projection = nn.Linear(config.user_prefix, config.width, bias=False)
            nn.init.zeros_(self.user_projection.weight)
        self.item_level = ItemLevel(
            config.width,
            vector_width if config.item_vectors else 0,
            head=bool(config.item_head),
        )
        if config.item_table:
            self.tables = tables if tables is not None else PlainTables(self.table_specs(config, items))
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @staticmethod
    def table_specs(config: GenRecConfig, items: int) -> list[TableSpec]:
        """Return the large tables the model needs."""
        return [TableSpec(ITEM_TABLE, items, config.width)] if config.item_table else []

    def no_decay_names(self) -> set[str]:
        """Return the parameters that weight decay must leave alone besides norms and biases: embeddings."""
        return {name for name, _ in self.named_parameters() if "embed" in name or name.startswith("lm_head")}

    def pretrained_names(self) -> set[str]:
        """Return the parameters that a Qwen2 checkpoint has too: the blocks and the final norm."""
        return {name for name, _ in self.named_parameters() if name.startswith(("model.layers.", "model.norm."))}

    def held_names(self, progress: float) -> set[str]:
        """Return the parameters that training leaves as they are at `progress`, the share of the run done."""
        return self.pretrained_names() if progress < self.held_until else set()

    def forward(self, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the page-wise next-token loss and its diagnostics; see `models.genrec.loss.page_loss`."""
        # One look-up a step: sharded tables update their rows at each.
        rows = self._item_rows(torch.cat([batch.history_items_H, batch.candidates_C]))
        history_HD, candidates_CD = rows.tensor_split([len(batch.history_items_H)])
        if self.training and batch.tokens_BT.device.type == "cpu":
            return target_loss(self, self.training_hidden(batch, history_HD), batch, self._keys(batch, candidates_CD))
        hidden_BTD, _ = self.hidden(batch, history_HD)
        return page_loss(self, hidden_BTD, batch, self._keys(batch, candidates_CD))

    def training_hidden(self, batch: PackedBatch, history_HD: Tensor | None = None) -> Tensor:
        """Return what `hidden` does in training on CPU in half the time: `[M L, D]`, at the target places alone."""
        x_BTD = self.dropout(self.embed(batch, history_HD))
        cos_BTE, sin_BTE = self.rotation(batch.positions_BT.clamp_min(0))
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        rows = PackedRows(cos_BTE=cos_BTE, sin_BTE=sin_BTE, mask_BTT=attention_mask(batch)[:, 0]).prepared(
            self.config.heads, self.config.kv_heads, dtype
        )
        x_MD = x_BTD.flatten(0, 1)
        *blocks, last = self.model.blocks()
        for block in blocks:
            x_MD = block.train_step(x_MD, rows)
        x_XD = last.train_step(x_MD, rows, batch.target_places_ML.reshape(-1))
        return rms_norm(x_XD, self.model.norm.weight, self.model.norm.eps)

    def hidden(self, batch: PackedBatch, history_HD: Tensor | None = None) -> tuple[Tensor, list[KeyValue]]:
        """Return the normed last hidden states `[B, T, D]` and each layer's keys and values; see `embed`."""
        x_BTD = self.dropout(self.embed(batch, history_HD))
        rotated = self.rotation(batch.positions_BT.clamp_min(0))
        mask = attention_mask(batch)
        caches = []
        for block in self.model.blocks():
            x_BTD, cache = block(x_BTD, rotated, mask)
            caches.append(cache)
        return self.model.norm(x_BTD), caches

    def rotation(self, positions_BT: Tensor) -> Rotation:
        """Return the rotary cosines and sines of positions."""
        return rotation(positions_BT, self.config.width // self.config.heads, self.config.rope_theta)

    def embed(self, batch: PackedBatch, history_HD: Tensor | None = None) -> Tensor:
        """Return the input vectors `[B, T, D]`: tokens, merged history items with event, time and item vectors.

        With `user_prefix` a page's `[PAGE]` token holds its user's vector too, through a small projection: the soft
        token of E2P (arXiv 2505.17051), one per page, since many pages share a history.

        Args:
            batch: Prompts and pages.
            history_HD: The history items' rows of the item table, where they were looked up already.
        """
        rows, places = batch.tokens_BT.shape
        x = F.embedding(batch.tokens_BT.view(-1), self.model.embed_tokens.weight)
        # Without any history too: sharded tables answer only when every process asks.
        vectors_HLD = F.embedding(batch.history_tokens_HL, self.model.embed_tokens.weight)
        vectors_HJD = vectors_HLD if self.merger is None else self.merger(vectors_HLD)[:, None]
        vectors_HJD = vectors_HJD + self._side_vectors(batch, history_HD)[:, None]
        places_H = batch.history_places_HJ.reshape(-1)
        x = x.index_copy(0, places_H, vectors_HJD.reshape(-1, x.shape[1]).to(x.dtype))
        x = x.index_add(0, batch.page_places_P, self._gap_vectors(self.page_gap_embedding, batch.page_gaps_P))
        if self.user_projection is not None:
            x = x.index_add(0, batch.page_places_P, self.user_projection(batch.user_vectors_PU).to(x.dtype))
        return x.view(rows, places, -1)

    def level_logits(self, hidden_D: Tensor, level: int) -> Tensor:
        """Return the logits of one level's codes, `[..., C]`, from hidden states `[..., D]`."""
        start = self.vocabulary.offsets[level]
        return F.linear(hidden_D, self.lm_head.weight[start : start + self.vocabulary.codes_per_level[level]])

    def code_vectors(self, codes: Tensor, level: int) -> Tensor:
        """Return the input vectors of zero-based codes of a level."""
        return F.embedding(codes + self.vocabulary.offsets[level], self.model.embed_tokens.weight)

    def item_keys(self, vectors_NV: Tensor) -> Tensor:
        """Return the keys of all items of a catalogue, `[N, D]`, for `item_logits`.

        Args:
            vectors_NV: Their vectors; items from number `items` on are those that training did not know.
        """
        items_N = torch.arange(len(vectors_NV), device=vectors_NV.device)
        return self.item_level.keys(vectors_NV, self._item_rows(items_N))

    def _side_vectors(self, batch: PackedBatch, history_HD: Tensor | None = None) -> Tensor:
        gaps_HD = self._gap_vectors(self.history_gap_embedding, batch.history_gaps_H)
        rows_HD = self._item_rows(batch.history_items_H) if history_HD is None else history_HD
        items_HD = self.item_level.history_vectors(batch.history_vectors_HV, rows_HD)
        return self.event_embedding(batch.history_events_H) + gaps_HD + items_HD

    def _keys(self, batch: PackedBatch, rows_CD: Tensor) -> Tensor | None:
        """Return the keys of the batch's candidates, None without an item head."""
        return self.item_level.keys(batch.candidate_vectors_CV, rows_CD) if self.config.item_head else None

    def _item_rows(self, items_n: Tensor) -> Tensor:
        """Look up the item table, `[n, D]`: zeros without one, and for items that training did not know."""
        if not self.config.item_table:
            return self.lm_head.weight.new_zeros(len(items_n), self.config.width)
        found: Tensor = self.tables({ITEM_TABLE: torch.where(items_n < self.items, items_n, -1)})[ITEM_TABLE]
        return found

    def _gap_vectors(self, table: nn.Embedding, buckets_n: Tensor) -> Tensor:
        """Look up time gaps; outside training, one that training never met counts as the next shorter one it did.

        A service on old data sees its users years after their last event. Buckets that were never trained still hold
        the zeros they started from, which is how they are told apart.
        """
        if not self.training:
            number = torch.arange(GAP_BUCKETS, device=buckets_n.device)
            trained = torch.where(table.weight.any(dim=1), number, -1).cummax(0).values
            buckets_n = torch.where(trained >= 0, trained, number)[buckets_n]
        found: Tensor = table(buckets_n)
        return found

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not self._is_merger(module):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for side in (self.event_embedding, self.history_gap_embedding, self.page_gap_embedding):
            nn.init.zeros_(side.weight)

    def _is_merger(self, module: nn.Module) -> bool:
        return self.merger is not None and module is self.merger.linear


def attention_mask(batch: PackedBatch) -> Tensor:
    """Return `[B, 1, T, T]`: true where a place may attend: its visible prompt, and its own page up to itself."""
    places = torch.arange(batch.tokens_BT.shape[1], device=batch.tokens_BT.device)
    in_prompt = places < batch.visible_BT[..., None]
    own_page = (batch.segment_BT[:, None, :] == batch.segment_BT[..., None]) & (batch.segment_BT[..., None] > 0)
    return (in_prompt | (own_page & (places <= places[:, None])))[:, None]

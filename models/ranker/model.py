"""The ranker: embeddings of all sides, interest in the history, crosses and hidden layers, a head per event.

::

    request features ---------------------------------+
    item features, item features of the moment -------+--> x --> CrossNetwork ----+
    numbers of the pair (affinities, relative price) -+    |                      +--> click, cart, purchase
    history --> Interest (query: the item) -----------+    +---> hidden layers ---+

Legend: `B` requests, `U` items, `R` candidates, `E` history entries, `D` representation width, `H` heads.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding.plain import PlainTables
from models.ranker.config import HEADS, RankerConfig
from models.ranker.dcn import CrossNetwork
from models.ranker.interest import Entries, Interest
from models.ranker.layout import Layout
from models.ranker.loss import head_losses
from models.ranker.unified import UnifiedEmbedding, Values

_FOUND = 2
"""Numbers that say how many history entries share the candidate's category, and whether there is a history."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """The history entries of a batch of requests.

    Attributes:
        entries: Whose they are, and their categories.
        items: Row of each entry's item among the rows of the history side.
        events: Codes of `EVENT_KINDS`.
        gaps: Buckets of the time before the request.
    """

    entries: Entries
    items: Tensor
    events: Tensor
    gaps: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerBatch:
    """Pages to train on.

    Attributes:
        values: Ids of the sides request `[B]`, item `[U]`, moment `[R]` and history.
        request_BX, item_UX, moment_RX, pair_RX: Their numbers.
        candidates: The `R` candidates of all requests.
        item_R: The row of each candidate's item among the items.
        history: Of the requests.
        label_RH: 0 or 1.
        rate_R: Log of how often an item is drawn as a negative of its page; 0 where pages were logged.
        share: What a row's loss counts: 1 / (mean number of rows of all processes' batches).
    """

    values: Values
    request_BX: Tensor
    item_UX: Tensor
    moment_RX: Tensor
    pair_RX: Tensor
    candidates: Entries
    item_R: Tensor
    history: History
    label_RH: Tensor
    rate_R: Tensor
    share: float

    @property
    def size(self) -> int:
        """Number of candidates."""
        return len(self.item_R)


class UnifiedRanker(nn.Module):
    """Predicts what a user does with an item shown at a moment.

    Args:
        config: Shape.
        layout: Features and their rows.
        tables: The shared table; None for a plain one.
        log_odds: Of a click, cart and purchase in training: where the heads start.
    """

    loss_weights: Tensor

    def __init__(
        self,
        config: RankerConfig,
        layout: Layout,
        tables: nn.Module | None = None,
        log_odds: tuple[float, ...] = (0.0,) * len(HEADS),
    ) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        tables = PlainTables(UnifiedEmbedding.table_specs(config)) if tables is None else tables
        self.embedding = UnifiedEmbedding(config.dimensions, layout, tables)
        sides = (layout.request, layout.item, layout.moment, layout.pair)
        widths = [side.width(config.dimensions) for side in sides]
        self.key_width = layout.history_side.slots * config.dimensions
        self.interest = Interest(self.key_width, config.attention_width, config.attention_heads, config.recent_entries)
        width = sum(widths) + config.attention_width + _FOUND
        self.cross = CrossNetwork(width, config.cross_layers)
        inner = [width, *config.deep_widths]
        self.deep = nn.Sequential(
            *(layer for before, after in itertools.pairwise(inner) for layer in (nn.Linear(before, after), nn.ReLU()))
        )
        self.heads = nn.Linear(width + inner[-1], len(HEADS))
        nn.init.normal_(self.heads.weight, std=0.01)
        with torch.no_grad():
            self.heads.bias.copy_(torch.tensor(log_odds))
        self.register_buffer("loss_weights", torch.tensor(config.loss_weights), persistent=False)

    def forward(self, batch: RankerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and its diagnostics; see `models.ranker.loss`."""
        return head_losses(self.batch_logits(batch), batch.label_RH, batch.rate_R, self.loss_weights, batch.share)

    def batch_logits(self, batch: RankerBatch) -> Tensor:
        """Return the log-odds of click, cart and purchase, `[R, H]`."""
        request_BD, item_UD, moment_RD, history_KD = self.embedding(batch.values)
        request_BD = torch.cat([request_BD, batch.request_BX], dim=1)
        # item ids come first in an item's representation: the first `key_width` numbers are those of a history entry
        item_UD = torch.cat([item_UD, batch.item_UX], dim=1)
        moment_RD = torch.cat([moment_RD, batch.moment_RX], dim=1)
        item_RD = torch.cat([F.embedding(batch.item_R, item_UD), moment_RD], dim=1)
        history_ED = F.embedding(batch.history.items, history_KD)
        return self.logits(request_BD, item_RD, batch.pair_RX, batch.candidates, history_ED, batch.history)

    def logits(
        self,
        request_BD: Tensor,
        item_RD: Tensor,
        pair_RX: Tensor,
        candidates: Entries,
        history_EF: Tensor,
        history: History,
    ) -> Tensor:
        """Return the log-odds of candidates whose sides are looked up already.

        Args:
            request_BD: Representation of each request.
            item_RD: Of each candidate: item, then item at the moment.
            pair_RX: Numbers of request and item.
            candidates: Which request each belongs to.
            history_EF: The first `key_width` numbers of the item of each history entry.
            history: Of the requests; its `items` are not looked at.
        """
        keys_EA, values_EA = self.interest.entries(history_EF, history.events, history.gaps)
        attended_RA, matches_R = self.interest(
            item_RD[:, : self.key_width], candidates, keys_EA, values_EA, history.entries
        )
        has_history_R = F.embedding(candidates.request, (history.entries.lengths_B > 0).float().unsqueeze(1))
        found_R2 = torch.cat([torch.log1p(matches_R.float()).unsqueeze(1), has_history_R], dim=1)
        parts = [F.embedding(candidates.request, request_BD), item_RD, pair_RX, attended_RA.to(item_RD.dtype), found_R2]
        x_RD = torch.cat(parts, dim=1)
        return self.heads(torch.cat([self.cross(x_RD), self.deep(x_RD)], dim=1)).float()

    def no_decay_names(self) -> set[str]:
        """Return the embeddings: a row without a gradient must stay where it is."""
        return {"embedding.exact.weight", "interest.event.weight", "interest.gap.weight"}

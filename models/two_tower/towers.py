"""The two towers over shared embedding tables, and the training loss.

Legend: `B` examples, `C` candidate items, `S` items of the self-supervised task, `R` rows of a tower, `K` blocks and
`W` width of a tower's input, `D` width of the vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.embedding.bags import PlainBags
from models.embedding.spec import BagSpec, TableSpec
from models.two_tower.config import TwoTowerConfig
from models.two_tower.frequency import StreamingFrequency
from models.two_tower.inputs import TowerTensors
from models.two_tower.loss import contrastive, mixture_probability, sampled_softmax
from models.two_tower.schema import Block, Schema

TABLE_SCALE = 0.05
"""Largest absolute value of first table weights: small against what a step of Adagrad adds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerBatch:
    """One training batch of one process.

    Attributes:
        user: `B` examples.
        item: `C` candidates, then, with the self-supervised task, `S` first and `S` second views.
        candidates: Item numbers, distinct, `C`.
        positive_B: The candidate that is each example's positive.
        hidden: Examples and candidates, in pairs, that are no negatives.
        in_batch: The distinct positives of each process's batch of this step.
        uniform: Probability of an item to be drawn evenly.
    """

    user: TowerTensors
    item: TowerTensors
    candidates: Tensor
    positive_B: Tensor
    hidden: tuple[Tensor, Tensor]
    in_batch: tuple[Tensor, ...]
    uniform: float

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.positive_B)

    def to(self, device: torch.device) -> TowerBatch:
        """Return the same on a device."""
        return dataclasses.replace(
            self,
            user=self.user.to(device),
            item=self.item.to(device),
            candidates=self.candidates.to(device),
            positive_B=self.positive_B.to(device),
            hidden=(self.hidden[0].to(device), self.hidden[1].to(device)),
            in_batch=tuple(items.to(device) for items in self.in_batch),
        )


class Tower(nn.Module):
    """Concatenated blocks -> ReLU layers -> a unit vector; a learned default replaces what a row does not have.

    Args:
        blocks: Of the input, in order.
        hidden: Widths of the layers.
    """

    places_KW: Tensor

    def __init__(self, blocks: Sequence[Block], hidden: Sequence[int]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.widths = [block.width for block in self.blocks]
        self.default_W = nn.Parameter(torch.zeros(sum(self.widths)))
        places_KW = torch.eye(len(self.blocks)).repeat_interleave(
            torch.tensor(self.widths), dim=1, output_size=sum(self.widths)
        )
        self.register_buffer("places_KW", places_KW, persistent=False)
        sizes = [sum(self.widths), *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, inputs: TowerTensors, pooled: dict[str, Tensor]) -> Tensor:
        """Return float32 unit vectors `[R, D]`.

        Args:
            inputs: Bags and numbers of `R` rows.
            pooled: The pooled vectors of each bag.
        """
        parts, absent, number = [], [], 0
        for block in self.blocks:
            if block.bag:
                parts.append(pooled[block.bag])
                absent.append(inputs.bags[block.bag][1].diff() == 0)
            else:
                value_R = inputs.numbers[:, number]
                parts.append(value_R.nan_to_num().unsqueeze(1))
                absent.append(value_R.isnan())
                number += 1
        # what is absent is zero until here
        values_RW, absent_RK = torch.cat(parts, dim=1), torch.stack(absent, dim=1)
        filled_RW = torch.addmm(values_RW, absent_RK.to(values_RW.dtype), self.places_KW * self.default_W)
        return F.normalize(self.layers(filled_RW).float(), dim=1)


class TwoTowerNet(nn.Module):
    """User tower, item tower and the tables they share.

    Args:
        schema: Features and vocabularies.
        config: Shape and losses.
        items: Number of catalogue items, for the estimate of frequencies.
        bags: Pooled lookups of `bag_specs`; None: plain torch ones.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig, items: int, bags: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.bags = PlainBags(*bag_specs(schema, config)) if bags is None else bags
        self.user = Tower(schema.user, config.hidden)
        self.item = Tower(schema.item, config.hidden)
        self.frequency = StreamingFrequency(
            items=items,
            hashes=config.frequency_hashes,
            buckets=config.frequency_buckets,
            rate=config.frequency_rate,
        )

    def vectors(self, user: TowerTensors, item: TowerTensors) -> tuple[Tensor, Tensor]:
        """Return the unit vectors of user and of item rows, `[R, D]` each."""
        pooled = self.bags({**user.bags, **item.bags})
        return self.user(user, pooled), self.item(item, pooled)

    def forward(self, batch: TowerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, and take the batch into the estimate of frequencies."""
        if self.config.log_q != "off":
            for items in batch.in_batch:
                self.frequency.update(items)
        return self.loss(batch)

    def loss(self, batch: TowerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `main + ssl_weight * ssl` and both parts with their shares of right first places."""
        user_BD, item_RD = self.vectors(batch.user, batch.item)
        candidates = len(batch.candidates)
        loss, first = sampled_softmax(
            user_BD,
            item_RD[:candidates],
            batch.positive_B,
            temperature=self.config.temperature,
            log_q_C=self._log_q(batch),
            correct_positive=self.config.log_q == "all",
            hidden=batch.hidden,
        )
        diagnostics = {"main_loss": loss, "main_first": first}
        if self.config.ssl_weight > 0:
            views_SD = item_RD[candidates:].chunk(2)
            ssl, ssl_first = contrastive(*views_SD, temperature=self.config.ssl_temperature)
            loss = loss + self.config.ssl_weight * ssl
            diagnostics |= {"ssl_loss": ssl, "ssl_first": ssl_first}
        return loss, diagnostics

    def _log_q(self, batch: TowerBatch) -> Tensor | None:
        if self.config.log_q == "off":
            return None
        return mixture_probability(self.frequency(batch.candidates), batch.uniform).log()


def bag_specs(schema: Schema, config: TwoTowerConfig) -> tuple[list[TableSpec], list[BagSpec]]:
    """Return the tables and the bags that are looked up in them; history bags share the item columns' tables."""
    blocks = [block for block in (*schema.item, *schema.user) if block.bag]
    widths = {block.column: block.width for block in blocks}
    values = {**schema.item_values, **schema.user_values}
    tables = [
        TableSpec(table, len(values[column]), widths[column], init_scale=TABLE_SCALE)
        for column, table in schema.tables.items()
    ]
    return tables, [BagSpec(block.bag, schema.tables[block.column]) for block in blocks]

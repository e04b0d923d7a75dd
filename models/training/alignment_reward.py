"""What the candidates of a group are worth: a ranker's score of the items behind each semantic ID, and the gate.

Legend: `B` requests, `X` semantic IDs of each, `I` items of an ID, `N` items, `D` width of content vectors.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.schemas import POSITIVE_CODES, TRAIN
from features.semantic_ids import Catalogue
from features.workspace import Workspace
from kernels.jagged import columns, offsets_from_lengths, row_numbers
from models.alignment.config import AlignConfig
from models.alignment.reward import gate_scores, gate_threshold, sid_items, sid_rewards
from models.ranker.examples import LoggedItems, logged_items
from models.recommend.interface import NO_ITEM, Ranker, RequestBatch
from models.recommend.model_ranker import ModelRanker
from models.recommend.requests import EvaluationCases

Ints = npt.NDArray[np.int64]
ITEMS_PER_ID = 16
"""Items of one semantic ID that are scored, the most popular."""
THRESHOLD_PAGES = 2_000
"""Pages whose exposed items decide the gate's threshold."""
_BATCH = 256


class WorthShare:
    """A ranker whose scores are shares of the most an item can be worth, hence in [0, 1].

    The worth is the sum of value x calibrated probability of click, cart and purchase, the most the sum of values.

    Args:
        ranker: Sees items as of each request's own moment.
    """

    name = "worth"

    def __init__(self, ranker: ModelRanker) -> None:
        self.ranker, self.most = ranker, sum(ranker.model.config.values)

    def score(self, requests: RequestBatch, items_BK: Ints) -> npt.NDArray[np.float32]:
        """Return the share of each candidate, `-inf` where there is none."""
        return self.ranker.score(requests, items_BK) / np.float32(self.most)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """Which candidates are like what the user had, or liked on the page.

    Attributes:
        vectors_ND: Content vectors of the items.
        threshold: Least cosine.
    """

    vectors_ND: Tensor
    threshold: float

    def open(self, items_BX: Tensor, anchors: Ints, anchor_offsets: Ints) -> Tensor:
        """Return whether each item is let through, `[B, X]`; false where there is none."""
        offsets = torch.from_numpy(anchor_offsets)
        return gate_scores(self.vectors_ND, items_BX, torch.from_numpy(anchors), offsets) >= self.threshold


class Judge:
    """Rewards semantic IDs.

    Args:
        reward: Scores items in [0, 1].
        catalogue: Items behind each ID.
        config: Reward of IDs with several items.
        gate: None lets everything through.
        exposures_N: How often each item was exposed.
    """

    def __init__(
        self,
        reward: Ranker,
        catalogue: Catalogue,
        config: AlignConfig,
        gate: Gate | None,
        exposures_N: npt.NDArray[np.float64],
    ) -> None:
        self.reward, self.config, self.gate = reward, config, gate
        self._offsets, self._items = torch.from_numpy(catalogue.offsets), torch.from_numpy(catalogue.items)
        self._exposures_N = torch.from_numpy(exposures_N)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def judge(
        self, requests: RequestBatch, positives: Ints, positive_offsets: Ints, sids_BX: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return reward before the gate and whether the gate is open, both `[B, X]`.

        An ID is let through with any of its items. Rewards do not follow the policy's precision.

        Args:
            requests: `B` requests.
            positives: Items that were liked on each page, jagged.
            positive_offsets: `B + 1` offsets.
            sids_BX: Rows of the sorted IDs, -1 where there is none.
        """
        items_BXI = sid_items(sids_BX, self._offsets, self._items, ITEMS_PER_ID)
        flat_BK = items_BXI.flatten(1)
        scores = torch.from_numpy(self.reward.score(requests, flat_BK.numpy())).view(items_BXI.shape)
        reward_BX = sid_rewards(scores, items_BXI, self.config, self._exposures_N)
        if self.gate is None:
            return reward_BX, sids_BX >= 0
        opened = self.gate.open(flat_BK, *anchors_of(requests, positives, positive_offsets))
        return reward_BX, opened.view(items_BXI.shape).any(dim=-1)


def anchors_of(requests: RequestBatch, positives: Ints, positive_offsets: Ints) -> tuple[Ints, Ints]:
    """Return what candidates are compared with, jagged: liked items of the history, and of the page."""
    liked = np.isin(requests.history_events, POSITIVE_CODES)
    rows = np.append(row_numbers(np.diff(requests.history_offsets))[liked], row_numbers(np.diff(positive_offsets)))
    items = np.append(requests.history_items[liked], positives)
    order = np.argsort(rows, kind="stable")
    return items[order], offsets_from_lengths(np.bincount(rows, minlength=len(requests)))


def make_gate(
    workspace: Workspace,
    catalogue: Catalogue,
    vectors_ND: npt.NDArray[np.float32],
    cases: EvaluationCases,
    config: AlignConfig,
    rng: np.random.Generator,
) -> Gate:
    """Set the threshold to the `gate_quantile` of what was exposed on training pages.

    Where the log holds no impressions, nothing but what was liked is known to have been exposed. That is compared with
    histories alone, for on its page it is its own anchor.

    Args:
        workspace: Holds `sequences`.
        catalogue: Numbers the items.
        vectors_ND: Content vectors.
        cases: Training pages.
        config: The quantile.
        rng: Chooses the pages.
    """
    chosen = np.sort(rng.choice(len(cases), min(len(cases), THRESHOLD_PAGES), replace=False))
    cases = cases.take(chosen)
    logged = logged_items(workspace, catalogue, TRAIN, cases.page_ids)
    gate = Gate(vectors_ND=torch.from_numpy(vectors_ND), threshold=0.0)
    scores = [_exposed_scores(gate, cases, logged, start) for start in range(0, len(cases), _BATCH)]
    return dataclasses.replace(gate, threshold=gate_threshold(torch.cat(scores), config.gate_quantile))


def _exposed_scores(gate: Gate, cases: EvaluationCases, logged: LoggedItems, start: int) -> Tensor:
    """Return the gate scores of the exposed items of `_BATCH` pages."""
    part = cases.take(np.arange(start, min(start + _BATCH, len(cases))))
    own = (logged.pages_E >= start) & (logged.pages_E < start + len(part))
    rows, items = logged.pages_E[own] - start, logged.items_E[own]
    lengths_B = np.bincount(rows, minlength=len(part))
    items_BX = np.full((len(part), int(lengths_B.max())), NO_ITEM, dtype=np.int64)
    items_BX[rows, columns(lengths_B)] = items
    positives, offsets = part.relevant_items, part.relevant_offsets
    if not logged.impressions:
        positives, offsets = positives[:0], np.zeros_like(offsets)
    anchors, anchor_offsets = anchors_of(part.requests, positives, offsets)
    items_BX[np.diff(anchor_offsets) == 0] = NO_ITEM
    return gate_scores(
        gate.vectors_ND, torch.from_numpy(items_BX), torch.from_numpy(anchors), torch.from_numpy(anchor_offsets)
    ).flatten()

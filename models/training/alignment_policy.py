"""GenRec while it is aligned: one step proposes candidates, has them judged and computes the loss of GRPO-SR.

Legend: `B` pages, `G` candidates of a group, `P` positives of a page, `M` of a batch, `C` candidates of an item head,
`L` levels, `D` width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from features.semantic_ids import Catalogue
from kernels.trie import Trie
from models.alignment.admission import Judged, admit
from models.alignment.config import AlignConfig
from models.alignment.objective import grpo_sr_loss, positives_nll
from models.alignment.reward import calibrated_rewards, hits
from models.alignment.rollouts import Rollouts, roll_out, sid_codes
from models.alignment.shared_prefix import hidden_before_codes, logprobs_after
from models.genrec.model import GenRec
from models.recommend.interface import NO_ITEM
from models.training.alignment_data import AlignmentBatch
from models.training.alignment_reward import Judge
from models.training.genrec_run import GenRecRun


class Policy(GenRec):
    """GenRec whose `forward` is a step of alignment; always in evaluation mode, for dropout would take it off policy.

    An item head reads what the step moves: beside the likelihood of the positives' codes it is taught that of the
    positives themselves, weighted to the codes' as in supervised training.

    Large tables stay as they are: a few hundred steps would do little but start their optimisers' memory anew.

    Args:
        run: What the model is.
        catalogue: Semantic IDs.
        judge: Rewards candidates.
        config: Rollouts and loss.
    """

    def __init__(self, run: GenRecRun, catalogue: Catalogue, judge: Judge, config: AlignConfig) -> None:
        shape = run.build()
        super().__init__(shape.config, shape.vocabulary, shape.items, vector_width=run.vector_width)
        self.judge, self.align = judge, config
        self.trie = Trie.from_sorted(catalogue.sids_SL)
        self._sid_of_item_N = catalogue.sid_of_item_N
        self._vectors_NV = (
            catalogue.item_vectors if self.config.item_vectors else np.zeros((len(catalogue), 0), np.float32)
        )
        if self.config.item_table:
            self.tables.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Policy:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def forward(self, batch: AlignmentBatch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """Return the loss of a step and its diagnostics.

        These are those of `models.alignment`, `empty_share` of groups and, with an item head, `nll_items`.
        """
        rollouts = self.propose(batch, self.align)
        taught_BP = torch.from_numpy(self._sids(batch.taught_BP))
        group = self.align.group
        # what autocast keeps of weights that it met without gradients would have none below
        torch.clear_autocast_cache()
        codes_BRL = torch.cat([rollouts.codes_BGL, sid_codes(self.trie, taught_BP)], dim=1)
        hidden_BRLD = hidden_before_codes(self, batch.prompts, codes_BRL)
        logprobs_BRL = logprobs_after(self, hidden_BRLD, codes_BRL)
        sids_BR = torch.cat([rollouts.sids_BG, taught_BP], dim=1)
        judged = self._judged(batch, logprobs_BRL.detach(), sids_BR)
        hit_BG, valid_BG = self.hits(batch, rollouts), rollouts.valid
        reward_BG, diagnostics = calibrated_rewards(
            judged.raw_BR[:, :group], judged.open_BR[:, :group], hit_BG, valid_BG, self.align
        )
        admitted_B, admission = self._admitted(judged, hit_BG)
        nll_B = positives_nll(logprobs_BRL[:, group:], taught_BP >= 0)
        supervised_B = (taught_BP >= 0).any(dim=1)
        loss, terms = grpo_sr_loss(
            logprobs_BRL[:, :group], reward_BG, valid_BG, nll_B, supervised_B, self.align, admitted_B
        )
        if self.config.item_head:
            nll_items = self._items_nll(hidden_BRLD[0][:, 0], batch)
            loss = loss + self.align.nll_weight * self.config.item_head * nll_items
            terms["nll_items"] = nll_items.detach()
        empty = (~valid_BG.any(dim=1)).float().mean()
        return loss, {**diagnostics, **admission, **terms, "empty_share": empty}

    def propose(self, batch: AlignmentBatch, config: AlignConfig) -> Rollouts:
        """Return the candidates of a batch, the same whenever it is asked with the same weights."""
        return roll_out(self, batch.prompts, self.trie, config, generator=torch.Generator().manual_seed(batch.seed))

    def hits(self, batch: AlignmentBatch, rollouts: Rollouts) -> Tensor:
        """Return which candidates stand for an item that was liked on the page, `[B, G]`."""
        positives = torch.from_numpy(self._sids(batch.positives))
        return hits(rollouts.sids_BG, positives, torch.from_numpy(batch.positive_offsets))

    def _items_nll(self, page_hidden_BD: Tensor, batch: AlignmentBatch) -> Tensor:
        """Return the item head's negative log-likelihood: averaged over a page's positives, then over pages."""
        taught_BP = batch.taught_BP != NO_ITEM
        counts_B = taught_BP.sum(axis=1)
        if not counts_B.any():
            return page_hidden_BD.new_zeros(())
        rows_M = torch.from_numpy(np.nonzero(taught_BP)[0])
        weight_M = torch.from_numpy((1 / np.maximum(counts_B, 1)).astype(np.float32))[rows_M]
        candidates_C = torch.from_numpy(batch.candidates_C)
        vectors_CV = torch.from_numpy(self._vectors_NV[batch.candidates_C])
        keys_CD = self.item_level.keys(vectors_CV, self._item_rows(candidates_C))
        targets_M = torch.from_numpy(batch.taught_candidate_M)
        return self.item_level.loss(page_hidden_BD[rows_M], keys_CD, targets_M, weight_M)

    def _sids(self, items: np.ndarray) -> np.ndarray:
        """Return the semantic ID of each item, -1 where there is none."""
        return np.where(items >= 0, self._sid_of_item_N[items], -1)

    def _judged(self, batch: AlignmentBatch, logprobs_BRL: Tensor, sids_BR: Tensor) -> _Responses:
        raw_BR, open_BR = self.judge.judge(batch.requests, batch.positives, batch.positive_offsets, sids_BR)
        return _Responses(logprob_BR=logprobs_BRL.sum(dim=-1), sids_BR=sids_BR, raw_BR=raw_BR, open_BR=open_BR)

    def _admitted(self, judged: _Responses, hit_BG: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        if not self.align.admission:
            return None, {}
        group = hit_BG.shape[1]
        present_BR = judged.sids_BR >= 0
        missed_BR = torch.cat([present_BR[:, :group] & ~hit_BG, present_BR[:, group:]], dim=1)
        gated_BR = judged.raw_BR.where(judged.open_BR, 0.0)
        parts = [
            Judged(logprob_BX=logprob_BX, reward_BX=reward_BX, present_BX=present_BX)
            for logprob_BX, reward_BX, present_BX in zip(
                *(values.tensor_split([group], dim=1) for values in (judged.logprob_BR, gated_BR, missed_BR)),
                strict=True,
            )
        ]
        return admit(parts[0], parts[1], self.align)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Responses:
    """Candidates and then positives, as the policy and the judge see them."""

    logprob_BR: Tensor
    sids_BR: Tensor
    raw_BR: Tensor
    open_BR: Tensor

"""Both losses as softmax cross-entropies over cosines.

Legend: `B` examples, `C` candidates (distinct items), `S` items of the self-supervised task, `D` width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled_softmax(
    user_BD: Tensor,
    item_CD: Tensor,
    positive_B: Tensor,
    *,
    temperature: float,
    log_q_C: Tensor | None = None,
    correct_positive: bool = True,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the mean of `-log softmax(cosine / temperature - log Q)[positive]` and the share ranked first.

    The denominator over the sampled candidates estimates the one over all items, whose terms it holds with probability
    `Q_j`: dividing a term by `Q_j`, that is subtracting `log Q_j` from its logit, makes the estimate right in the
    mean. Candidates are distinct, hence no example has its own positive among the negatives.

    Args:
        user_BD: Unit vectors.
        item_CD: Unit vectors of the candidates.
        positive_B: The candidate that is each example's positive.
        temperature: Divides cosines.
        log_q_C: Logarithm of each candidate's probability to be one; None: no correction.
        correct_positive: Whether the positive is corrected as well, as Yi et al. do. An example's own positive is
            always among its candidates, so without this the denominator is right in the mean for every example.
        hidden: Examples and candidates, in pairs, that are no negatives: other positives of the same page.

    Source: Yi et al., RecSys 2019, equations 4 to 6; for `correct_positive=False` Khrylchenko et al., "Correcting the
    LogQ Correction", RecSys 2025.
    """
    # Scaling the users instead of the logits, and subtracting while multiplying, saves passes over [B, C].
    scaled_BD, item_DC = user_BD.float() / temperature, item_CD.float().T
    logits_BC = scaled_BD @ item_DC if log_q_C is None else torch.addmm(-log_q_C, scaled_BD, item_DC)
    own = torch.arange(len(positive_B), device=positive_B.device), positive_B
    if log_q_C is not None and not correct_positive:
        logits_BC.index_put_(own, log_q_C[positive_B], accumulate=True)
    if hidden is not None:
        logits_BC.index_put_(hidden, logits_BC.new_tensor(-torch.inf))
    first = (logits_BC.detach().amax(1) == logits_BC.detach()[own]).float().mean()
    return F.cross_entropy(logits_BC, positive_B), first


def mixture_probability(in_batch_C: Tensor, uniform: float) -> Tensor:
    """Return the probability that an item is a candidate: in the batch, or among the evenly drawn, or both.

    Args:
        in_batch_C: Its probability to be in a batch.
        uniform: Its probability to be drawn evenly: draws without repetition divided by items.

    Source: the inclusion probability of the mixture in Yang et al., WWW 2020 companion.

    Example:
        >>> mixture_probability(torch.tensor([0.0, 0.5]), uniform=0.5).tolist()
        [0.5, 0.75]
    """
    return 1 - (1 - in_batch_C) * (1 - uniform)


def contrastive(first_SD: Tensor, second_SD: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the mean of `-log softmax(cosine / temperature)[own]` of one view against all items' other views.

    Args:
        first_SD: Unit vectors of the items' first views.
        second_SD: Those of their second views.
        temperature: Divides cosines.

    Returns:
        The loss, and the share of items whose own second view is the nearest.

    Source: Yao et al., CIKM 2021, equation 3.
    """
    logits_SS = (first_SD.float() / temperature) @ second_SD.float().T
    own_S = torch.arange(len(logits_SS), device=logits_SS.device)
    first = (logits_SS.detach().amax(1) == logits_SS.detach().diagonal()).float().mean()
    return F.cross_entropy(logits_SS, own_S), first

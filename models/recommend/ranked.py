"""What lies between ranking and policy: each request's ranked candidates, from which its pages are drawn.

A page is the next slots of one stochastic ranking: what earlier pages of it have shown is taken out, the rest is
drawn from on. So the propensities of a later page are conditional on the earlier
ones, and every page can be judged by its own candidates alone.
Legend: `B` requests, `F` fused candidates, `G` caps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.recommend.fusion import Fused
from models.recommend.interface import NO_ITEM, RequestBatch
from models.recommend.rules import Filters

GENREC, TRANSITIONS, TWO_TOWER, POPULAR = "genrec", "transitions", "two_tower", "popular"
"""Names of the retrievers."""
RANKER = "ranker"
"""What a page lacks whose ranker did not answer."""


class PartRestsError(RuntimeError):
    """A retriever or ranker is not to be asked for the moment; whoever says so has logged why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    """Requests with their candidates.

    Attributes:
        requests: `B` requests after the rules.
        filters: What each of them asked of every item.
        fused: Their candidates, in the order that the policy draws from.
        fallbacks: What stood in for the first choice, None where nothing did.
    """

    requests: RequestBatch
    filters: Sequence[Filters | None]
    fused: Fused
    fallbacks: Sequence[str | None]

    def permitted(self) -> Ranked:
        """Return the same without candidates that their request must not get (any more)."""
        items_BF = self.fused.items_BF
        row, place = np.nonzero(items_BF != NO_ITEM)
        kept_BF = np.zeros(items_BF.shape, dtype=bool)
        kept_BF[row, place] = self.requests.permits(row, items_BF[row, place])
        return dataclasses.replace(self, fused=self.fused.keeping(kept_BF))


def fallback_names(
    has_RB: npt.NDArray[np.bool_], sources: Sequence[str], first_choice: str, missing: Sequence[str]
) -> list[str | None]:
    """Say, per request, what its page had to do without: who stands in for the first choice, then `without_<part>`.

    Args:
        has_RB: Whether each retriever that answered has anything for the request.
        sources: Their names, best first.
        first_choice: Who should have the best list.
        missing: Parts that did not answer, retrievers and ranker.

    Example:
        >>> has_RB = np.array([[True, False], [True, True]])
        >>> fallback_names(has_RB, ["genrec", "popular"], "genrec", ["transitions"])
        ['without_transitions', 'popular']
    """
    names = []
    for first in has_RB.argmax(axis=0):
        stands_in = sources[first]
        # users without a history are served by the popular list alone: they lack no other retriever
        asked = (RANKER,) if stands_in == POPULAR else missing
        lacking = [part for part in missing if part != first_choice and part in asked]
        parts = [] if stands_in == first_choice else [stands_in]
        names.append("+".join([*parts, *(f"without_{part}" for part in lacking)]) or None)
    return names

"""The page maker: rules -> retrievers -> fusion -> ranker -> boosts -> policy -> pages.

Legend: `B` requests, `F` fused candidates, `P` slots of a page, `G` caps, `L` levels of semantic IDs.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.semantic_ids import Catalogue
from kernels.hashing import hash_strings
from models.recommend.blend import Blend, Joined
from models.recommend.boosts import Boosts
from models.recommend.config import RecommendConfig
from models.recommend.diversity import apart_from_shown, weight_of
from models.recommend.eligibility import Eligibility
from models.recommend.fusion import Fused, fuse
from models.recommend.interface import NO_ITEM, Candidates, Ranker, RequestBatch, Retriever
from models.recommend.policy import NO_CHOICE, Policy, uniform_numbers
from models.recommend.ranked import (
    GENREC,
    POPULAR,
    RANKER,
    TRANSITIONS,
    TWO_TOWER,
    PartRestsError,
    Ranked,
    fallback_names,
)
from models.recommend.reasons import why_short
from models.recommend.retrievers import TransitionsRetriever
from models.recommend.rules import CatalogueFacts, Filters, with_rules

RETRIEVERS: tuple[str, ...] = (GENREC, TRANSITIONS, TWO_TOWER, POPULAR)
"""Retriever names, first choice first: a page without its first choice names the one that stands in as `fallback`."""
PAGE, FUSION = "page", "fusion"
"""Sources of the page maker's own order, with and without the ranker, when they are measured beside the retrievers."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A made page, and everything a log needs to replay it.

    Attributes:
        items: Item ids in shown order; fewer than asked for where nothing else may be shown.
        scores: Fused score of each item.
        sources: The retriever that contributed most to each item.
        parts: What each retriever, the ranker, boosts and earlier pages contributed to each item's score.
        propensities: P(item of slot p | candidates, items before p).
        candidates: Ids of all eligible candidates, best first.
        candidate_scores: Their fused scores.
        fallback: The best retriever that had candidates where the first choice had none, and parts that did not
            answer (`models.recommend.ranked.fallback_names`); None where nothing was lacking.
        reason: Why there are fewer items than asked for, None where there are as many.
    """

    items: list[str]
    scores: list[float]
    sources: list[str]
    parts: list[dict[str, float]]
    propensities: list[float]
    candidates: list[str]
    candidate_scores: list[float]
    fallback: str | None
    reason: str | None

    def logged(self, policy: Policy) -> dict[str, object]:
        """Return what `features.schemas.PAGES` says of the page itself, drawn by this policy."""
        names = ("items", "sources", "scores", "propensities", "candidates", "candidate_scores", "fallback")
        drawn_by = {"policy": policy.name, "epsilon": policy.epsilon, "temperature": policy.temperature}
        return {**drawn_by, **{name: getattr(self, name) for name in names}}

    def first(self, slots: int) -> Page:
        """Return the first slots as a page: they are drawn in turn, so it is one that might have been asked for."""
        shown = {name: getattr(self, name)[:slots] for name in ("items", "scores", "sources", "parts", "propensities")}
        return dataclasses.replace(self, **shown, reason=self.reason if len(self.items) < slots else None)


def request_seeds(request_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the seed of each request's exploration: a hash of its logged id, so that its page can be made again."""
    return hash_strings(pa.array(request_ids, pa.string()))


class RetrievalError(RuntimeError):
    """No retriever could answer."""


class Recommender:
    """Makes pages for batches of requests.

    Args:
        catalogue: The items; requests and retrievers speak in its numbers.
        retrievers: Any of `RETRIEVERS`, the popular list among them.
        config: Sizes, weights and policy.
        facts: Availability and what filters look at.
        ranker: Orders the fused candidates, None for the order of the fusion.
        blend: Orders by all scores, None to order by ranks.

    Raises:
        ValueError: Unknown or repeated retrievers, or no popular list.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        retrievers: Sequence[Retriever],
        config: RecommendConfig,
        facts: CatalogueFacts,
        ranker: Ranker | None = None,
        blend: Blend | None = None,
    ) -> None:
        if not len(catalogue):
            raise ValueError("the catalogue is empty: expected items to make pages of; run `pagewise semantic-ids`")
        names = [retriever.name for retriever in retrievers]
        if len(set(names)) != len(names) or not set(names) <= set(RETRIEVERS) or POPULAR not in names:
            raise ValueError(f"retrievers: expected distinct ones of {', '.join(RETRIEVERS)} with popular, got {names}")
        if len(facts) != len(catalogue):
            raise ValueError(f"facts: expected one row per item, {len(catalogue)}, got {len(facts)}")
        self.catalogue = catalogue
        by_preference = sorted(retrievers, key=lambda retriever: RETRIEVERS.index(retriever.name))
        self.retrievers: dict[str, Retriever] = {retriever.name: retriever for retriever in by_preference}
        self.config = config
        self.facts = facts
        self.ranker = ranker
        self.blend = blend
        last_stage = partial(Policy, caps=config.caps, diversity=config.diversity)
        self.policy = last_stage(epsilon=config.epsilon, temperature=config.temperature)
        self.greedy = last_stage(epsilon=0.0, temperature=0.0)
        rules = config.boost_rules
        # the facts keep them: page makers with the same facts, of which a service has several, share them
        self.boosts = facts.kept(("boosts", rules), partial(Boosts, rules)) if rules else None

    def with_parts(
        self,
        *,
        catalogue: Catalogue | None = None,
        retrievers: Sequence[Retriever] | None = None,
        facts: CatalogueFacts | None = None,
        ranker: Ranker | None = None,
    ) -> Recommender:
        """Return a page maker with other parts; it shares what is not given with this one, which stays as it is."""
        return Recommender(
            self.catalogue if catalogue is None else catalogue,
            list(self.retrievers.values()) if retrievers is None else retrievers,
            self.config,
            self.facts if facts is None else facts,
            self.ranker if ranker is None else ranker,
            self.blend,
        )

    @property
    def first_choice(self) -> str:
        """The retriever that users with a history are meant to be served by, whether it is there or not."""
        return next(name for name in RETRIEVERS if self.config.weight(name) > 0)

    def pages(
        self,
        requests: RequestBatch,
        page_size: int | None = None,
        seeds_B: npt.NDArray[np.uint64] | None = None,
        filters: Sequence[Filters | None] | None = None,
    ) -> list[Page]:
        """Answer `B` requests together.

        A user without history gets the popular list. A retriever that fails is logged and left out; `fallback` then
        names the one that stands in.

        Args:
            requests: Histories and items that must not be shown.
            page_size: Items per page, default `config.page_size`.
            seeds_B: The exploration stream of each request (`request_seeds`). None makes the best page without
                exploration: propensities are 1.
            filters: One per request, None for all without.

        Raises:
            ValueError: The page size or the number of filters is wrong.
            RetrievalError: All retrievers failed.
        """
        slots = self._slots(page_size)
        return self.drawn(self.ranked(requests, slots, filters), slots, seeds_B)

    def ranked(
        self,
        requests: RequestBatch,
        slots: int,
        filters: Sequence[Filters | None] | None = None,
        eligible: Eligibility | None = None,
    ) -> Ranked:
        """Return the candidates of `B` requests in the order that pages are drawn from; arguments as in `pages`.

        Args:
            requests: See `pages`.
            slots: Candidates wanted at least.
            filters: See `pages`.
            eligible: What may be shown in place of what is available now and passes the filters: the candidates of a
                page of the past.

        Raises:
            ValueError: The number of filters is wrong.
            RetrievalError: All retrievers failed.
        """
        asked = [None] * len(requests) if filters is None else list(filters)
        if len(asked) != len(requests):
            raise ValueError(f"filters: expected one per request, {len(requests)}, got {len(asked)}")
        ruled = self._with_rules(requests, asked)
        if eligible is not None:
            ruled = dataclasses.replace(ruled, eligible=eligible)
        joined, missing = self._joined(ruled, slots)
        return Ranked(
            requests=ruled,
            filters=asked,
            fused=self._ordered(joined, ruled),
            fallbacks=self._fallbacks(joined.lists, missing),
        )

    def ranked_before(
        self,
        requests: RequestBatch,
        fused: Fused,
        fallbacks: Sequence[str | None],
        filters: Sequence[Filters | None],
    ) -> Ranked:
        """Return candidates that `ranked` gave earlier, less those that their requests must not get any more.

        Args:
            requests: `B` requests by now; what earlier pages showed is among their excluded items.
            fused: From `ranked` of this page maker, or of one with the same catalogue.
            fallbacks: From `ranked`.
            filters: One per request.
        """
        ruled = self._with_rules(requests, filters)
        return Ranked(requests=ruled, filters=filters, fused=fused, fallbacks=fallbacks).permitted()

    def drawn(
        self,
        ranked: Ranked,
        slots: int,
        seeds_B: npt.NDArray[np.uint64] | None = None,
        shown: Sequence[Sequence[str]] | None = None,
    ) -> list[Page]:
        """Draw a page for each request.

        Args:
            ranked: Candidates of `B` requests.
            slots: Items per page.
            seeds_B: See `pages`.
            shown: Per request, items of earlier pages of the list, which diversity keeps this page apart from.
        """
        if self.config.diversity and shown is not None and any(shown):
            weight = weight_of(self.config.diversity)
            ranked = dataclasses.replace(ranked, fused=apart_from_shown(ranked.fused, self.catalogue, shown, weight))
        fused, size = ranked.fused, len(ranked.requests)
        policy = self.greedy if seeds_B is None else self.policy
        uniform_BP = uniform_numbers(np.zeros(size, np.uint64) if seeds_B is None else seeds_B, slots)
        there_BF = fused.items_BF != NO_ITEM
        choice_BP, propensity_BP = policy.draw(fused.scores_BF, there_BF, uniform_BP, *self.traits(fused.items_BF))
        found_B, there_B = (choice_BP != NO_CHOICE).sum(axis=1).tolist(), there_BF.sum(axis=1).tolist()
        ids_BF = np.full(there_BF.shape, None, dtype=object)
        ids_BF[there_BF] = self.catalogue.ids(fused.items_BF[there_BF])
        return [
            self._page(
                *(ranked, row, ids_BF[row], choice_BP[row], propensity_BP[row]),
                capped=found_B[row] < min(slots, there_B[row]),
            )
            for row in range(size)
        ]

    def candidates(self, requests: RequestBatch, k: int) -> list[Candidates]:
        """Return what each retriever in use proposes after the rules, first choice first; failures are raised.

        Users without history get candidates of the popular list only.
        """
        ruled = self._with_rules(requests, [None] * len(requests))
        return [self._ask(name, ruled, k) for name in self._in_use()]

    def orders(self, requests: RequestBatch, k: int) -> tuple[Candidates, Candidates]:
        """Return the first `k` items of the order that the policy draws from, and of the order before the ranker."""
        joined = self.joined(requests, k)
        return _first(self._ordered(joined, requests), k, PAGE), _first(joined.fused, k, FUSION)

    def joined(self, requests: RequestBatch, k: int) -> Joined:
        """Return the candidates after the rules and all that is said of them, for at least `k` items."""
        return self._joined(self._with_rules(requests, [None] * len(requests)), k)[0]

    def traits(
        self, items_BF: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int32] | None]:
        """Return what the policy must know of candidates beside their scores, to draw or to judge a page.

        Args:
            items_BF: Catalogue numbers, `NO_ITEM` where there is none.

        Returns:
            The group of each candidate per cap, `[B, F, G]`, and its semantic ID, `[B, F, L]`; None without caps, and
            without diversity.
        """
        groups_BFG = codes_BFL = None
        if self.config.caps:
            groups_BFG = np.stack([self.facts.groups(name)[items_BF] for name, _ in self.config.caps], axis=2)
        if self.config.diversity:
            codes_BFL = self.catalogue.codes_NL[items_BF]
        return groups_BFG, codes_BFL

    def similar(self, item_id: str, k: int, time: int) -> list[tuple[str, float]]:
        """Return up to `k` items that users turn to around this one, with their transition scores, best first.

        Args:
            item_id: An item of the catalogue.
            k: Number of items.
            time: The moment of asking, milliseconds since 1970 UTC; items not available then are left out.

        Raises:
            ValueError: The item is not in the catalogue, or there are no transitions.
        """
        number = int(self.catalogue.numbers([item_id])[0])
        if number == NO_ITEM:
            raise ValueError(f"item {item_id!r} is not in the catalogue")
        transitions = self.retrievers.get(TRANSITIONS)
        if not isinstance(transitions, TransitionsRetriever):
            raise ValueError("similar items need the transitions retriever, which this recommender does not have")
        found = transitions.similar(number, k, self.facts.mask(time))
        kept = found.items_BK[0] != NO_ITEM
        return list(zip(self.catalogue.ids(found.items_BK[0][kept]), found.scores_BK[0][kept].tolist(), strict=True))

    def _slots(self, page_size: int | None) -> int:
        slots = self.config.page_size if page_size is None else page_size
        if not 1 <= slots <= self.config.max_page_size:
            raise ValueError(f"page_size: expected 1 to {self.config.max_page_size}, got {slots}")
        return slots

    def _with_rules(self, requests: RequestBatch, filters: Sequence[Filters | None]) -> RequestBatch:
        return with_rules(requests, self.facts, filters, self.config.exclude_seen)

    def _in_use(self) -> list[str]:
        """Return the names of the retrievers to ask, first choice first."""
        return [name for name in self.retrievers if self.config.weight(name) > 0]

    def _retrieve(self, requests: RequestBatch, k: int) -> tuple[list[Candidates], list[str]]:
        """Return the lists of the retrievers that answer, and the names of those that do not."""
        lists, failures = [], dict[str, Exception]()
        for name in self._in_use():
            try:
                lists.append(self._ask(name, requests, k))
            except PartRestsError as error:
                failures[name] = error
            except Exception as error:
                _log.exception("retriever %s failed; the next one stands in", name)
                failures[name] = error
        if not lists:
            reasons = "; ".join(f"{name}: {error}" for name, error in failures.items())
            raise RetrievalError(f"no retriever could answer; {reasons}")
        return lists, list(failures)

    def _ask(self, name: str, requests: RequestBatch, k: int) -> Candidates:
        """Ask one retriever; all but the popular list are asked about users with a history only."""
        warm = np.arange(len(requests)) if name == POPULAR else np.flatnonzero(np.diff(requests.history_offsets))
        items_BK = np.full((len(requests), k), NO_ITEM, dtype=np.int64)
        scores_BK = np.full((len(requests), k), -np.inf, dtype=np.float32)
        if len(warm):
            found = self.retrievers[name].retrieve(requests.take(warm), k)
            # item transitions fill up with popular items of score 0: they come from the popular list, at its own weight
            said_BK = found.scores_BK > 0 if name == TRANSITIONS else found.items_BK != NO_ITEM
            width = said_BK.shape[1]
            items_BK[warm, :width] = np.where(said_BK, found.items_BK, NO_ITEM)
            scores_BK[warm, :width] = np.where(said_BK, found.scores_BK, -np.inf)
        return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=name)

    def _joined(self, ruled: RequestBatch, slots: int) -> tuple[Joined, list[str]]:
        """Ask all retrievers, join their lists and let the ranker judge what they hold; name who did not answer."""
        config = self.config
        lists, missing = self._retrieve(ruled, max(slots, config.candidates))
        weights = [config.weight(entry.source) for entry in lists]
        fused = fuse(lists, weights, config.rrf_k, limit=max(slots, config.pool))
        judged = self._judge(ruled, fused.items_BF)
        if judged is None and self._judges:
            missing.append(RANKER)
        joined = Joined(lists=lists, fused=fused, ranker=judged, ranker_weight=config.ranker_weight, rrf_k=config.rrf_k)
        return joined, missing

    def _ordered(self, joined: Joined, requests: RequestBatch) -> Fused:
        """Return the candidates in the order of their final scores."""
        ordered = joined.ordered(self.blend)
        return ordered if self.boosts is None else self.boosts(ordered, requests.times_B)

    @property
    def _judges(self) -> bool:
        return self.ranker is not None and self.config.ranker_weight > 0

    def _judge(
        self, requests: RequestBatch, items_BF: npt.NDArray[np.int64]
    ) -> tuple[str, npt.NDArray[np.float32]] | None:
        """Return the ranker's name and scores; None without one, and where it fails: pages are then made without."""
        if self.ranker is None or not self._judges:
            return None
        try:
            return self.ranker.name, self.ranker.score(requests, items_BF)
        except PartRestsError:
            return None
        except Exception:  # whatever a model may raise: a page in another order is better than none
            _log.exception("the ranker failed; the order of the fusion stands")
            return None

    def _fallbacks(self, lists: Sequence[Candidates], missing: Sequence[str]) -> list[str | None]:
        has_RB = np.array([(entry.items_BK != NO_ITEM).any(axis=1) for entry in lists])
        return fallback_names(has_RB, [entry.source for entry in lists], self.first_choice, missing)

    def _page(
        self,
        ranked: Ranked,
        row: int,
        ids_F: np.ndarray,
        choice_P: np.ndarray,
        propensity_P: np.ndarray,
        *,
        capped: bool,
    ) -> Page:
        fused = ranked.fused
        slots = choice_P[choice_P != NO_CHOICE]
        there = fused.items_BF[row] != NO_ITEM
        parts_PR = fused.parts_BFR[row, slots]
        return Page(
            items=ids_F[slots].tolist(),
            scores=fused.scores_BF[row, slots].tolist(),
            sources=[fused.sources[named] for named in fused.named_BF[row, slots]],
            parts=[dict(zip(fused.sources, part, strict=True)) for part in parts_PR.tolist()],
            propensities=propensity_P[: len(slots)].tolist(),
            candidates=ids_F[there].tolist(),
            candidate_scores=fused.scores_BF[row, there].tolist(),
            fallback=ranked.fallbacks[row],
            reason=self._reason(ranked, row, len(slots), capped) if len(slots) < len(choice_P) else None,
        )

    def _reason(self, ranked: Ranked, row: int, found: int, capped: bool) -> str:
        """Say why a page holds fewer items than wanted."""
        if capped:
            caps = " and ".join(f"{most} of one {name}" for name, most in self.policy.caps)
            return f"a page holds at most {caps}: of the candidates left, none may follow these {found}"
        return why_short(ranked.requests, row, ranked.filters[row], found, self.config.exclude_seen)


def _first(fused: Fused, k: int, source: str) -> Candidates:
    items_BK = fused.items_BF[:, :k]
    scores_BK = np.where(items_BK == NO_ITEM, -np.inf, fused.scores_BF[:, :k]).astype(np.float32)
    return Candidates(items_BK=items_BK, scores_BK=scores_BK, source=source)

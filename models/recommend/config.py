"""Configuration of the page maker."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from models.recommend.boosts_config import Boost, boosts_of, with_files_read

RANKS, LEARNED = "ranks", "learned"
"""Ways to order the joined candidates."""
BRAND, CATEGORY = "brand", "category"
"""Groups of items that may be capped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecommendConfig:
    """How candidates are found, fused and drawn into a page."""

    page_size: int = 10
    """Items of a page when a request does not say."""
    max_page_size: int = 50
    """Largest page a request may ask for."""
    candidates: int = 100
    """Items asked of each retriever."""
    pool: int = 100
    """Items of the joined lists that the ranker judges and the policy draws from; more cost ranking time."""
    fusion: Literal["ranks", "learned"] = "ranks"
    """`ranks`: damped ranks of the retrievers and the ranker, by the weights below. `learned`: all their scores, by
    weights fitted on validation pages (`pagewise train blend`); scores of a page are then at most 0."""
    genrec_weight: float = 1.0
    """Weight of GenRec's ranks in the fusion; 0 leaves the retriever out."""
    two_tower_weight: float = 0.5
    """Weight of the two-tower retriever's ranks in the fusion; 0 leaves the retriever out."""
    transitions_weight: float = 1.0
    """Weight of the item transitions' ranks in the fusion; 0 leaves the retriever out."""
    popular_weight: float = 0.01
    """Weight of the popular list's ranks, more than 0: small, so that it fills pages and breaks ties but overrules
    nobody."""
    ranker_weight: float = 1.0
    """Weight of the ranker's order of the fused candidates, beside the retrievers'; 0 leaves the ranker out, of
    a learned fusion too."""
    int8_tables: bool = False
    """Hold the models' embedding tables as 8-bit integers: about a quarter of the memory, answers that differ in
    near-ties. Registering a release then says how often."""
    rrf_k: float = 60.0
    """Rank r counts (rrf_k + 1) / (rrf_k + r): larger values make the first ranks less special."""
    exclude_seen: bool = True
    """Leave out the items of the user's history; disliked items are left out in any case."""
    epsilon: float = 0.05
    """Probability with which a slot is drawn uniformly from the candidates: the logs can then be replayed."""
    temperature: float = 0.0
    """Softmax temperature of the other draws, in units of the fused score, which by ranks is 1 for what all retrievers
    rank first and learned is a log-odds; 0 takes the best candidate."""
    max_per_brand: int = 0
    """Most items of one brand on a page; 0 for any number. Items without a brand are not counted."""
    max_per_category: int = 0
    """Most items with one category path on a page; 0 for any number. Items without a category are not counted."""
    diversity: float = 0.0
    """How much a page's variety counts beside its scores: 1 - lambda of maximal marginal relevance, 0 for not at all,
    less than 1. An item as like one before it on the page as two of one semantic ID loses diversity / (1 - diversity)
    of its score, in units of the score."""
    boosts: tuple[dict[str, Any], ...] = ()
    """Changes of the final score, each by a `factor` or an `addend` (in units of the score), of the items with all its
    conditions: `category`, `brand`, `items` (ids) or `items_file` (one id per line, read when the release is made),
    `attribute` (name=value), `new_days` (since `available_from`). Several multiply and add up. `learned` takes addends
    only."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected at least 1, got {getattr(self, name)}"
            for name in ("page_size", "max_page_size", "candidates", "pool")
            if getattr(self, name) < 1
        ]
        if self.page_size > self.max_page_size:
            mistakes.append(f"page_size: expected at most max_page_size = {self.max_page_size}, got {self.page_size}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                mistakes.append(f"{name}: expected a finite number >= 0, got {getattr(self, name)}")
        if self.popular_weight == 0:
            mistakes.append("popular_weight: expected more than 0, since users without history are served by it, got 0")
        if self.fusion not in (RANKS, LEARNED):
            mistakes.append(f"fusion: expected {RANKS!r} or {LEARNED!r}, got {self.fusion!r}")
        if not 0 <= self.epsilon <= 1:
            mistakes.append(f"epsilon: expected 0 to 1, got {self.epsilon}")
        if not 0 <= self.diversity < 1:
            mistakes.append(f"diversity: expected at least 0 and less than 1, got {self.diversity}")
        mistakes += self._mistakes_in_boosts()
        if mistakes:
            raise ValueError("; ".join(mistakes))

    def _mistakes_in_boosts(self) -> list[str]:
        # JSON gives a list; a configuration that was stored equals the one it was stored from
        object.__setattr__(self, "boosts", tuple(dict(document) for document in self.boosts))
        try:
            boosts = self.boost_rules
        except ValueError as error:
            return [str(error)]
        factors = [place for place, boost in enumerate(boosts) if boost.factor is not None]
        if self.fusion == LEARNED and factors:
            return [
                f"boosts[{place}]: expected an addend, since scores of fusion={LEARNED!r} are log-odds of at most 0, "
                f"got factor={boosts[place].factor:g}"
                for place in factors
            ]
        return []

    @property
    def boost_rules(self) -> tuple[Boost, ...]:
        """The boosts, checked."""
        return boosts_of(self.boosts)

    def self_contained(self) -> RecommendConfig:
        """Return the configuration with item ids in place of the files that list them.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no text.
        """
        return dataclasses.replace(self, boosts=with_files_read(self.boosts))

    @property
    def caps(self) -> tuple[tuple[str, int], ...]:
        """What is capped on a page, and the most there may be of each brand or category."""
        most_of = {BRAND: self.max_per_brand, CATEGORY: self.max_per_category}
        return tuple((name, most) for name, most in most_of.items() if most)

    def weight(self, retriever: str) -> float:
        """Return the fusion weight of a retriever, by its name.

        Raises:
            ValueError: There is no weight for this name.
        """
        weights = {
            "genrec": self.genrec_weight,
            "two_tower": self.two_tower_weight,
            "transitions": self.transitions_weight,
            "popular": self.popular_weight,
        }
        if retriever not in weights:
            raise ValueError(f"retriever {retriever!r} has no fusion weight; expected one of {', '.join(weights)}")
        return weights[retriever]


_NOT_NEGATIVE = (
    "genrec_weight",
    "two_tower_weight",
    "transitions_weight",
    "popular_weight",
    "ranker_weight",
    "rrf_k",
    "temperature",
    "max_per_brand",
    "max_per_category",
)

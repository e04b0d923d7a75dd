"""Health of semantic IDs: how many items share one, how evenly codes are used, and gates that fail a run.

Legend: `N` items, `L` levels (the extra level not counted), `C` codes per level, `S` distinct IDs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from models.tokenizer.config import SemanticIdConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """Health figures of the codes without the extra level."""

    items: int
    distinct_ids: int
    collision_rate: float
    """Share of items whose ID is also another item's."""
    unique_ratio: float
    """Distinct IDs / items."""
    items_per_id: dict[str, int]
    """p50, p90, p99 and max of the number of items behind one ID."""
    entropy_bits: list[float]
    """Per level, - sum p log2 p over its codes."""
    perplexity_ratio: list[float]
    """Per level, 2^entropy / codes: 1 when all codes are used equally."""
    dead_codes: list[int]
    """Per level, codes without an item."""
    reconstruction_error: float
    """Squared error of the decoded vectors / variance of the vectors: 0 is perfect, 1 no better than the mean."""
    category_purity: float | None
    """Share of items that have the commonest top category of their first code; None without categories."""

    def lines(self) -> list[str]:
        """Return the figures as lines for the terminal."""
        spread = ", ".join(f"{name} {value}" for name, value in self.items_per_id.items())
        purity = "" if self.category_purity is None else f"; first level category purity {self.category_purity:.3f}"
        return [
            f"{self.items} items, {self.distinct_ids} distinct IDs (ratio {self.unique_ratio:.4f}), "
            f"collision rate {self.collision_rate:.4f}",
            f"items per ID: {spread}",
            f"entropy per level {_join(self.entropy_bits, '.2f')} bits, perplexity / codes "
            f"{_join(self.perplexity_ratio, '.3f')}, dead codes {_join(self.dead_codes, 'd')}",
            f"reconstruction error {self.reconstruction_error:.3f}{purity}",
        ]


def measure_health(
    codes_NL: npt.NDArray[np.int32],
    codes: int,
    vectors_ND: npt.NDArray[np.float32],
    reconstructed_ND: npt.NDArray[np.float32],
    categories: list[str | None],
) -> Health:
    """Measure codes of a catalogue.

    Args:
        codes_NL: Zero-based codes, without the extra level.
        codes: Codes per level.
        vectors_ND: What was quantised.
        reconstructed_ND: What the codes stand for.
        categories: A category per item (the deepest that divides the catalogue), None where unknown.
    """
    _, id_of_item_N, sizes_S = np.unique(codes_NL, axis=0, return_inverse=True, return_counts=True)
    usage_LC = code_usage(codes_NL, codes)
    entropy_L = [_entropy_bits(usage_C) for usage_C in usage_LC]
    variance = float(np.square(vectors_ND - vectors_ND.mean(axis=0)).sum())
    error = float(np.square(vectors_ND - reconstructed_ND).sum())
    return Health(
        items=len(codes_NL),
        distinct_ids=len(sizes_S),
        collision_rate=float((sizes_S[id_of_item_N.reshape(-1)] > 1).mean()),
        unique_ratio=len(sizes_S) / len(codes_NL),
        items_per_id={
            **{f"p{rank}": int(np.percentile(sizes_S, rank, method="higher")) for rank in (50, 90, 99)},
            "max": int(sizes_S.max()),
        },
        entropy_bits=entropy_L,
        perplexity_ratio=[2**bits / codes for bits in entropy_L],
        dead_codes=[int((usage_C == 0).sum()) for usage_C in usage_LC],
        reconstruction_error=error / variance if variance else 0.0,
        category_purity=_purity(codes_NL[:, 0], categories),
    )


def code_usage(codes_NL: npt.NDArray[np.int32], codes: int) -> npt.NDArray[np.int64]:
    """Return `[L, C]` numbers of items per code."""
    return np.stack([np.bincount(level_N, minlength=codes) for level_N in codes_NL.T])


def check_gates(health: Health, config: SemanticIdConfig) -> None:
    """Refuse unhealthy semantic IDs.

    Raises:
        ValueError: A gate failed; the message names the figures and the fields to change.
    """
    mistakes = []
    if health.collision_rate > config.max_collision_rate:
        mistakes.append(
            f"collision rate {health.collision_rate:.3f} is above max_collision_rate {config.max_collision_rate}: "
            f"raise codes ({config.codes}) or levels ({config.levels}), give items more telling content, or where many "
            "items are truly alike let them share IDs: max_collision_rate=1"
        )
    live = 1 - max(health.dead_codes) / config.codes
    if live < config.min_code_share:
        mistakes.append(
            f"only {live:.3f} of a level's codes are in use, min_code_share is {config.min_code_share}: "
            f"set balance_slack (now {config.balance_slack}) to 1.05 or lower codes ({config.codes})"
        )
    lowest = min(health.perplexity_ratio)
    if lowest < config.min_perplexity:
        mistakes.append(
            f"a level's perplexity / codes is {lowest:.3f}, min_perplexity is {config.min_perplexity}: "
            f"set balance_slack (now {config.balance_slack}) to 1.05 or lower codes ({config.codes})"
        )
    if mistakes:
        raise ValueError("semantic IDs are not healthy: " + "; ".join(mistakes))


def dividing_categories(paths: list[list[str] | None]) -> list[str | None]:
    """Return each item's category at the first depth where the catalogue has more than one.

    Example:
        >>> dividing_categories([["Beauty", "Nails"], ["Beauty", "Hair", "Dyes"], ["Beauty"], None])
        ['Nails', 'Hair', None, None]
    """
    known = [path or [] for path in paths]
    for depth in range(max(map(len, known), default=0)):
        names = [path[depth] if len(path) > depth else None for path in known]
        if len(set(names) - {None}) > 1:
            return names
    return [path[0] if path else None for path in known]


def _purity(first_code_N: npt.NDArray[np.int32], categories: list[str | None]) -> float | None:
    """Return the share of categorised items that have the commonest category of their first-level code."""
    rows = np.flatnonzero([category is not None for category in categories])
    if not len(rows):
        return None
    _, number_of = np.unique([str(categories[row]) for row in rows], return_inverse=True)
    table = np.zeros((int(first_code_N.max()) + 1, int(number_of.max()) + 1), np.int64)
    np.add.at(table, (first_code_N[rows], number_of), 1)
    return float(table.max(axis=1).sum() / len(rows))


def _entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _join(values: list[float] | list[int], form: str) -> str:
    return " / ".join(format(value, form) for value in values)

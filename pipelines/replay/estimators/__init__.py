"""Estimators of what a policy would have earned on pages that another one logged.

Read in this order: `weights`, `terms` (what is summed over pages), `interface`, `inverse_probability`, `doubly_robust`.
"""

from __future__ import annotations

from pipelines.replay.estimators.doubly_robust import (
    CascadeDr,
    ClippedDr,
    DirectMethod,
    DoublyRobust,
    SelfNormalisedDr,
    ShrunkDr,
    SwitchDr,
)
from pipelines.replay.estimators.interface import Estimator
from pipelines.replay.estimators.inverse_probability import (
    ClippedIps,
    Ips,
    PseudoInverse,
    Rejection,
    SelfNormalisedIps,
    SubGaussianIps,
)

_OF_PAGES: tuple[Estimator, ...] = (
    Ips(),
    ClippedIps(),
    SelfNormalisedIps(),
    DirectMethod(),
    DoublyRobust(),
    Ips(weights="cluster"),
    SelfNormalisedDr(),
    SwitchDr(),
    ShrunkDr(),
    Rejection(),
    PseudoInverse(),
    ClippedDr(),
    SubGaussianIps(),
    SelfNormalisedIps(weights="cluster"),
)
_OF_SLOTS: tuple[Estimator, ...] = (
    Ips(weights="prefix"),
    CascadeDr(),
    Ips(weights="position"),
    DoublyRobust(weights="position"),
    SelfNormalisedIps(weights="prefix"),
    SelfNormalisedIps(weights="position"),
    SelfNormalisedDr(weights="position"),
    ClippedDr(weights="position"),
    SwitchDr(weights="position"),
    ShrunkDr(weights="position"),
)


def standard_estimators(slots: int) -> tuple[Estimator, ...]:
    """Return all estimators for pages of at most so many slots.

    On pages of one slot, weights of pages, prefixes and positions are the same, and so are the estimators; only those
    of whole pages are returned.
    """
    return _OF_PAGES if slots == 1 else _OF_PAGES + _OF_SLOTS


def primary(estimator: str, slots: int, *, marginals_known: bool = True) -> str:
    """Return the name of the estimator that decides: the chosen one, `auto` for `ips` or, on longer pages, `iips_dr`.

    Args:
        estimator: As it was asked for.
        slots: Of the longest page.
        marginals_known: Whether it is known how likely the logging policy puts an item into a slot whatever stands
            before it, as `iips_dr` asks; else `auto` stands for `cascade_dr`, which asks for the logged chances only.

    Raises:
        ValueError: There is none of this name.
    """
    if estimator == "auto":
        return "ips" if slots == 1 else "iips_dr" if marginals_known else "cascade_dr"
    names = [known.name for known in standard_estimators(slots)]
    if estimator not in names:
        raise ValueError(f"estimator: expected auto or one of {', '.join(names)}, got {estimator!r}")
    return estimator


def self_normalised(estimator: str, slots: int) -> str | None:
    """Return the name of the estimator with the same weights, divided by their own sum instead of its known mean.

    None for what is self-normalised itself, has no weights or is no standard estimator. `cascade_dr` has the weights of
    `snrips`; `pi`, whose weights of pairs are not summed by slot, is held against `sniips`.

    Example:
        >>> [self_normalised(name, slots=3) for name in ("iips_dr", "clipped_ips", "sndr", "dm")]
        ['iips_sndr', 'snips', None, None]
    """
    twin = {
        **dict.fromkeys(("ips", "clipped_ips"), "snips"),
        **dict.fromkeys(("dr", "clipped_dr", "switch_dr", "dros"), "sndr"),
        **dict.fromkeys(("iips_dr", "iips_clipped_dr", "iips_switch_dr", "iips_dros"), "iips_sndr"),
        **dict.fromkeys(("rips", "cascade_dr"), "snrips"),
        **{"mips": "snmips", "iips": "sniips", "pi": "snips" if slots == 1 else "sniips"},
    }
    return twin.get(estimator)

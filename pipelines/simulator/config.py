"""Size and logging policy of the simulated marketplace."""

from __future__ import annotations

import dataclasses
import datetime


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Options of `pagewise simulate`; the defaults are the nano preset.

    Raises:
        ValueError: Some fields are out of range; the message lists all of them.

    Example:
        >>> SimulateConfig(days=3).days
        3
    """

    users: int = 2_000
    """Number of people. About 15 % of them join after the first day."""

    items: int = 1_000
    """Number of items in the shop before the first day."""

    days: int = 14
    """Simulated days. A longer simulation starts with exactly the days of a shorter one."""

    new_items_per_day: int = 10
    """Items that become available at midnight of every day but the first."""

    start: str = "2025-01-01"
    """First simulated day, `YYYY-MM-DD`, UTC. `pagewise demo` replaces this default by one with which the last day is
    yesterday."""

    visits_per_day: float = 0.5
    """Mean number of visits per user and day, at most 2; people differ by a gamma distribution."""

    pages_per_visit: float = 1.5
    """Mean number of pages asked for in one visit, from 1 to 2."""

    page_items: int = 10
    """Items on a page."""

    candidates: int = 100
    """Items drawn per request, a quarter from each source (popular, taste, next need, random); duplicates fall out."""

    epsilon: float = 0.1
    """Share of slots filled uniformly from the remaining candidates; 0 would leave actions without support."""

    temperature: float = 1.0
    """Temperature of the softmax over the logging policy's scores; lower is greedier."""

    explores_from_day: int | None = None
    """From this day on, counted from 0, pages are drawn with `exploration_temperature`: logs from which another policy
    can be judged. None for never."""

    exploration_temperature: float = 2.0
    """Temperature from then on. 2 costs about a quarter of the clicks."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name}: expected {expected}, got {getattr(self, name)!r}"
            for name, expected, good in (
                ("users", "at least 1", self.users >= 1),
                ("items", f"at least 8 * page_items = {8 * self.page_items}", self.items >= 8 * self.page_items),
                ("days", "at least 1", self.days >= 1),
                ("new_items_per_day", "at least 0", self.new_items_per_day >= 0),
                ("start", "a date YYYY-MM-DD", _is_date(self.start)),
                ("visits_per_day", "above 0, at most 2", 0 < self.visits_per_day <= 2),
                ("pages_per_visit", "from 1 to 2", 1 <= self.pages_per_visit <= 2),
                ("page_items", "at least 1", self.page_items >= 1),
                (
                    "candidates",
                    f"a multiple of 4, at least 4 * page_items = {4 * self.page_items} "
                    f"and at most items / 2 = {self.items // 2}",
                    self.candidates % 4 == 0 and 4 * self.page_items <= self.candidates <= self.items // 2,
                ),
                ("epsilon", "above 0, at most 1", 0 < self.epsilon <= 1),
                ("temperature", "at least 0.1", self.temperature >= 0.1),
                (
                    "explores_from_day",
                    "at least 0, or none",
                    self.explores_from_day is None or self.explores_from_day >= 0,
                ),
                ("exploration_temperature", "at least 0.1", self.exploration_temperature >= 0.1),
            )
            if not good
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))

    def temperature_on(self, day: int) -> float:
        """Return the temperature of a day's pages.

        Example:
            >>> config = SimulateConfig(explores_from_day=12)
            >>> config.temperature_on(11), config.temperature_on(12)
            (1.0, 2.0)
        """
        explores = self.explores_from_day is not None and day >= self.explores_from_day
        return self.exploration_temperature if explores else self.temperature


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False

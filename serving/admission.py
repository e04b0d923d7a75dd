"""How many pages may be asked for at once, so that whoever is let in is answered in good time.

A fixed number is right for one speed of the machine only: with room for 128 and 50 pages per second everybody waits for
2.6 s, past the deadline, and nothing is served any more. So the number follows what is measured: it grows while pages
take less than a target, as far as it is used, and shrinks while they take longer. Under more requests than the machine
can answer it settles where a page takes about the target, which is Little's law: pages inside = pages per second x
target. Batches stay full, and the rest is refused at once. The rule is the gradient of Netflix's concurrency-limits
(github.com/Netflix/concurrency-limits) with a target in place of the shortest time seen: batches make a page that
comes alone no measure for one in company.
"""

from __future__ import annotations

STEP = 0.5
"""Of the change that a page asks for: those of one round change the limit by half of what would be right at once."""
LEAST = 4
"""The limit never falls below this: it must be possible to see that the machine is fast again."""


class Admission:
    """The number of pages inside, and how many there may be.

    Args:
        target_s: Seconds that a page may take when there is more to do than can be done.
        first: The limit before anything is known.
        most: The limit is never higher.

    Example:
        >>> admission = Admission(target_s=0.5, first=1, most=8)
        >>> admission.enter(), admission.enter()
        (True, False)
        >>> admission.leave(0.1)  # quick: 1 + 0.5 x (1 - 0.1 / 0.5), but never below 4
        >>> admission.limit
        4.0
    """

    def __init__(self, *, target_s: float, first: int, most: int) -> None:
        self._target_s, self._most = target_s, most
        self.limit, self.inside = float(min(first, most)), 0

    def enter(self) -> bool:
        """Let a page in, if there is room."""
        if self.inside >= int(self.limit):
            return False
        self.inside += 1
        return True

    def leave(self, seconds: float, *, good: bool = True) -> None:
        """Let a page out.

        Args:
            seconds: That its answer took, from the moment that all of the request was there.
            good: Whether that was a page. How soon something else came, such as what is wrong with the request, says
                nothing; that it took long does.
        """
        used = good and 2 * self.inside >= self.limit
        self.inside -= 1
        change = max(-1.0, 1.0 - seconds / self._target_s)
        if change < 0 or used:
            self.limit = min(float(self._most), max(float(min(LEAST, self._most)), self.limit + STEP * change))

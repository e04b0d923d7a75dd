"""The limit of pages inside follows what the machine does; the machine here is arithmetic, and so is its clock."""

from __future__ import annotations

import collections
import dataclasses
import math

import pytest

from serving.admission import LEAST, Admission

TARGET_S = 0.5
TICK_S = 0.001
BATCH = 32


@dataclasses.dataclass
class Machine:
    """Makes one batch at a time: 10 ms, and so much for each of its pages."""

    page_s: float
    admission: Admission
    now: float = 0.0
    due: float = 0.0
    free_at: float = 0.0
    waiting: collections.deque[float] = dataclasses.field(default_factory=collections.deque)
    making: list[float] = dataclasses.field(default_factory=list)
    waits: list[float] = dataclasses.field(default_factory=list)
    refused: int = 0

    @property
    def pages_per_s(self) -> float:
        """What full batches give."""
        return BATCH / (0.01 + BATCH * self.page_s)

    def run(self, rate: float, seconds: float) -> None:
        """Offer requests at a constant rate."""
        self.waits, self.refused = [], 0
        self.due = max(self.due, self.now)
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            while self.due < self.now:
                self.due += 1 / rate
                if self.admission.enter():
                    self.waiting.append(self.now)
                else:
                    self.refused += 1
            if self.now >= self.free_at:
                self._next_batch()

    def _next_batch(self) -> None:
        for began in self.making:
            self.waits.append(self.now - began)
            self.admission.leave(self.now - began)
        self.making = [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))]
        self.free_at = self.now + (0.01 + len(self.making) * self.page_s if self.making else 0.0)


def machine(page_s: float = 0.003, most: int = 512) -> Machine:
    return Machine(page_s, Admission(target_s=TARGET_S, first=BATCH, most=most))


@pytest.mark.parametrize("times", [2, 8])
@pytest.mark.parametrize("page_s", [0.001, 0.003, 0.03], ids=["fast", "medium", "slow"])
def test_with_more_requests_than_can_be_answered_pages_take_about_the_target(times, page_s):
    busy = machine(page_s)
    rate = times * busy.pages_per_s
    busy.run(rate, 10)  # until the limit has settled
    busy.run(rate, 20)
    assert len(busy.waits) / 20 == pytest.approx(busy.pages_per_s, rel=0.05)
    assert sorted(busy.waits)[len(busy.waits) // 2] == pytest.approx(TARGET_S, rel=0.5)
    assert max(busy.waits) < 4 * TARGET_S  # the deadline, with a quarter of it as the target
    assert busy.refused / 20 == pytest.approx(rate - busy.pages_per_s, rel=0.05)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_with_fewer_requests_than_can_be_answered_none_is_refused(share):
    quiet = machine()
    quiet.run(share * quiet.pages_per_s, 20)
    assert quiet.refused == 0


def test_a_machine_that_becomes_slower_and_fast_again():
    changing = machine()
    rate, fast = 2 * changing.pages_per_s, changing.pages_per_s
    changing.run(rate, 10)
    changing.page_s *= 4
    changing.run(rate, 10)
    changing.run(rate, 10)
    assert max(changing.waits) < 4 * TARGET_S
    changing.page_s /= 4
    changing.run(rate, 5)
    changing.run(rate, 10)
    assert len(changing.waits) / 10 == pytest.approx(fast, rel=0.05)


def test_a_limit_that_nobody_needs_does_not_grow_and_one_that_hung_comes_back():
    admission = Admission(target_s=TARGET_S, first=32, most=64)
    for _ in range(1000):
        assert admission.enter()
        admission.leave(0.001)
    assert admission.limit == 32
    for _ in range(1000):
        assert admission.enter()
        admission.leave(2.0)
    assert admission.limit == LEAST
    for _ in range(200):
        inside = 0
        while admission.enter():
            inside += 1
        for _ in range(inside):
            admission.leave(0.001)
    assert admission.limit == 64
    assert not math.isnan(admission.limit)


def test_answers_that_are_no_pages_count_only_where_they_took_long():
    admission = Admission(target_s=TARGET_S, first=10, most=64)
    for seconds, expected in ((0.0, 10), (1.0, 9.5)):
        while admission.enter():
            pass
        admission.leave(seconds, good=False)
        assert admission.limit == expected

"""Remembers what policies said of pages: the reward model is fitted on pages that are then judged, by the same models.

Asking a release costs most of judging, so that a process that does both asks once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

from kernels.hashing import hash_strings
from pipelines.replay.logged import LoggedBatch
from pipelines.replay.policies import Proposal

PAIRS = 4_000_000
"""Remembered (page, item) pairs, at most: some hundred MB."""


class Memory:
    """Answers by what was asked, the latest ones.

    Args:
        pairs: Remembered at most.
    """

    def __init__(self, pairs: int = PAIRS) -> None:
        self._most, self._pairs = pairs, 0
        self._answers: OrderedDict[Hashable, Proposal] = OrderedDict()

    def about(self, who: Hashable, batch: LoggedBatch, ask: Callable[[LoggedBatch], Proposal]) -> Proposal:
        """Return what somebody says about pages, asked now or before.

        Args:
            who: Whoever is asked, and all that their answer depends on beside the pages.
            batch: The pages.
            ask: Asks them.
        """
        digest = hashlib.blake2b(hash_strings(batch.column("request_id")).tobytes())
        numbers = (batch.users_R, batch.times_R, batch.shown_RP, batch.candidate_rows_X, batch.candidates_X)
        for part in (hash_strings(batch.items), *numbers):
            digest.update(part.tobytes())
        key = (who, digest.digest())
        if key in self._answers:
            return self._answers[key]
        answer = self._answers[key] = ask(batch)
        self._pairs += len(answer.rows_X)
        while self._pairs > self._most and len(self._answers) > 1:
            self._pairs -= len(self._answers.popitem(last=False)[1].rows_X)
        return answer

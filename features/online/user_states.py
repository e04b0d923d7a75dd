"""The packed state of user features, folded on with new events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.definitions import USER, features_of, memories_of, state_layout
from features.events import Events
from features.states import ENTITY, PackedStates


def fold_user_states(states: Sequence[bytes | None], events: Events) -> list[bytes]:
    """Return the states of users 0, 1, ... with these events, too.

    Args:
        states: What was held of each; None of a user without events.
        events: New events of these users, in any order.

    Raises:
        StaleStateError: A state was packed for other features.
    """
    memories = memories_of(features_of(USER))
    held = PackedStates.of_blobs(states, [memory.columns for memory in memories], state_layout())
    folded = []
    for number, memory in enumerate(memories):
        new = memory.combine(memory.rows_of(events.take(np.isin(events.code, memory.codes))))
        # what no new event touches stays packed
        folded.append(memory.merge(held.rows(number, np.unique(new[ENTITY])), new))
    return held.replaced(folded, state_layout())

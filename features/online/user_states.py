"""The packed state of user features, folded on with new events."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from features.definitions import USER, features_of, memories_of, state_layout
from features.events import Events
from features.states import pack_states, unpack_states


def fold_user_states(states: Sequence[bytes | None], events: Events) -> pa.BinaryArray:
    """Return the states of users 0, 1, ... with these events, too.

    Args:
        states: What was held of each; None of a user without events.
        events: New events of these users, in any order.

    Raises:
        StaleStateError: A state was packed for other features.
    """
    memories = memories_of(features_of(USER))
    held = unpack_states(states, [memory.columns for memory in memories], state_layout())
    folded = [memory.add(state, events) for memory, state in zip(memories, held, strict=True)]
    return pack_states(folded, len(states), state_layout())

"""The truth: the expected reward of any page for any user at any time, kept apart from the tables.

Only checks may ask. No pipeline, model or server reads what lies under `oracle/`.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from features.workspace import Workspace
from pipelines.simulator.behaviour import MEMORY, NO_ITEM, Moments, answer_probabilities
from pipelines.simulator.config import SimulateConfig
from pipelines.simulator.day import Pages
from pipelines.simulator.tables import item_ids, start_ms, user_ids
from pipelines.simulator.world import Ints, Items, Tree, Users, World

ORACLE_FILE = ("oracle", "state.npz")
"""Where the secret state lies below the workspace."""

Kind = Literal["click", "purchase", "value"]

# Times fit into 42 bits of milliseconds (139 years), so one integer orders (user, time).
_USER_STEP = 1 << 42


class Oracle:
    """Knows every secret of a simulated marketplace and every page it showed.

    Args:
        world: The marketplace.
        users_V: User numbers of all logged pages, `V` of them, in any order.
        times_V: Their times, milliseconds since the first day's midnight.
        items_VP: Items shown.
        needs_after_V: The user's need after each page.
    """

    def __init__(self, world: World, users_V: Ints, times_V: Ints, items_VP: Ints, needs_after_V: Ints) -> None:
        self.world = world
        keys_V = users_V * _USER_STEP + times_V
        order = np.argsort(keys_V)
        # A page of nobody, before all others, answers for everybody without a page.
        self._keys_V = np.concatenate([[-_USER_STEP], keys_V[order]])
        self._users_V = np.concatenate([[-1], users_V[order]])
        self._items_VP = np.concatenate([np.full((1, world.config.page_items), NO_ITEM), items_VP[order]])
        self._needs_after_V = np.concatenate([[-1], needs_after_V[order]])
        self._user_number = {name: number for number, name in enumerate(user_ids(world))}
        self._item_number = {name: number for number, name in enumerate(item_ids(world))}

    @classmethod
    def of_pages(cls, world: World, pages: Pages) -> Oracle:
        """Make the oracle of a finished simulation."""
        return cls(world, pages.users_R, pages.times_R, pages.items_RP, pages.needs_after_R)

    def expected_reward(
        self,
        user_ids: Sequence[str],
        times: npt.NDArray[np.int64],
        pages: Sequence[Sequence[str]],
        kind: Kind = "click",
    ) -> npt.NDArray[np.float64]:
        """Return the true expected reward of each page, given all that was shown before its time.

        A page's reward is the sum over positions of `P(examined) * P(clicked | examined)`, for purchases times
        `P(cart | clicked) * P(purchase | cart)`, for value times the price as well.

        Args:
            user_ids: `R` users.
            times: `R` moments, milliseconds since 1970 UTC.
            pages: `R` lists of item ids, first position first; lengths may differ.
            kind: `click` and `purchase` count items, `value` sums prices paid.

        Returns:
            Expected rewards `[R]`.

        Raises:
            ValueError: An unknown user, item or kind, or lengths that do not agree.
        """
        if not len(user_ids) == len(times) == len(pages):
            raise ValueError(
                f"expected as many users as times and pages, got {len(user_ids)}, {len(times)}, {len(pages)}"
            )
        width = max((len(page) for page in pages), default=0)
        items_RP = np.full((len(pages), width), NO_ITEM)
        for row, page in zip(items_RP, pages, strict=True):
            row[: len(page)] = [_number(self._item_number, name, "item") for name in page]
        users_R = np.array([_number(self._user_number, name, "user") for name in user_ids], dtype=np.int64)
        moments = self.moments(users_R, np.asarray(times) - start_ms(self.world.config))
        return self.expected_rewards_by_position(moments, items_RP, kind).sum(axis=1)

    def expected_rewards_by_position(self, moments: Moments, items_RP: Ints, kind: Kind) -> npt.NDArray[np.float64]:
        """Return the true expected reward of every position `[R, P]`, by numbers instead of ids."""
        answers = answer_probabilities(self.world, moments, items_RP)
        clicks = answers.examine * answers.click
        if kind == "click":
            return clicks
        purchases = clicks * answers.cart * answers.purchase
        if kind == "purchase":
            return purchases
        if kind == "value":
            return purchases * self.world.items.price_N[items_RP]
        raise ValueError(f"expected kind click, purchase or value, got {kind!r}")

    def moments(self, users_R: Ints, times_R: Ints) -> Moments:
        """Return the secret states of users strictly before times, in milliseconds since the first midnight."""
        last_R = np.searchsorted(self._keys_V, users_R * _USER_STEP + times_R) - 1
        earlier_RM = np.maximum(last_R[:, None] - np.arange(MEMORY), 0)
        known_RM = self._users_V[earlier_RM] == users_R[:, None]
        needs_R = np.where(
            known_RM[:, 0], self._needs_after_V[earlier_RM[:, 0]], self.world.users.first_need_U[users_R]
        )
        recent_RMP = np.where(known_RM[:, :, None], self._items_VP[earlier_RM], NO_ITEM)
        return Moments(users_R=users_R, times_R=times_R, needs_R=needs_R, recent_RMP=recent_RMP)

    def save(self, workspace: Workspace) -> None:
        """Write the secret state to `oracle/` of the workspace."""
        arrays = {
            f"{part}.{name}": value
            for part in ("tree", "items", "users")
            for name, value in vars(getattr(self.world, part)).items()
        }
        config = json.dumps(dataclasses.asdict(self.world.config))
        buffer = io.BytesIO()
        np.savez(
            buffer,
            config=np.frombuffer(config.encode(), dtype=np.uint8),
            users_V=self._users_V[1:],
            times_V=self._keys_V[1:] % _USER_STEP,
            items_VP=self._items_VP[1:].astype(np.int32),
            needs_after_V=self._needs_after_V[1:],
            **arrays,
        )
        workspace.write_bytes(buffer.getvalue(), *ORACLE_FILE)

    @classmethod
    def load(cls, path: str | Path) -> Oracle:
        """Read the secret state: `Oracle.load(workspace.local_path(*ORACLE_FILE))`."""
        with np.load(path) as state:
            world = World(
                config=SimulateConfig(**json.loads(state["config"].tobytes())),
                tree=Tree(**_fields(state, "tree", Tree)),
                items=Items(**_fields(state, "items", Items)),
                users=Users(**_fields(state, "users", Users)),
            )
            log = [state[name] for name in ("users_V", "times_V", "items_VP", "needs_after_V")]
        users_V, times_V, items_VP, needs_after_V = log
        return cls(world, users_V, times_V, items_VP.astype(np.int64), needs_after_V)


def _fields(state: Mapping[str, Any], part: str, kind: type) -> dict[str, Any]:
    return {field.name: state[f"{part}.{field.name}"] for field in dataclasses.fields(kind)}


def _number(numbers: dict[str, int], name: str, what: str) -> int:
    if name not in numbers:
        raise ValueError(f"unknown {what} {name!r}: expected one of the {len(numbers)} simulated {what}s")
    return numbers[name]

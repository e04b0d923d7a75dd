"""Catalogue deltas in a page maker: the one place where a release's page maker becomes one with another catalogue.

A state is made beside the one in use, which stays as it is; models, and whatever else does not change, are shared.
`delta_files` is what lies on disk, `delta_changes` writes new deltas.
Legend: `N` items, `M` new ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import Columns
from features.schemas import EVENT_CODE, PURCHASE
from features.semantic_ids import Catalogue
from features.store.base import ItemFacts
from models.inputs.items import item_columns
from models.recommend.delta_files import Changes, Delta, DeltaError, now, read_deltas, together
from models.recommend.fresh import with_fresh_items
from models.recommend.growth import NewItems, grown
from models.recommend.interface import RequestBatch
from models.recommend.recommender import Recommender
from models.recommend.release import Release
from models.recommend.rules import CatalogueFacts

ItemFeatures = Callable[[pa.Array], Columns | None]
"""Returns the item features of ids by now; None where none are known."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CatalogueState:
    """A release with its catalogue deltas up to one of them.

    Attributes:
        release: The release, whose page maker has the deltas.
        delta: Number of the last delta, 0 with none.
        digest: Of the last delta, empty with none.
        own_N: Items whose facts come from deltas: neither tables nor store change them.
    """

    release: Release
    delta: int
    digest: str
    own_N: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, release: Release) -> CatalogueState:
        """Return a release without its deltas."""
        own_N = np.zeros(len(release.recommender.catalogue), dtype=bool)
        return cls(release=release, delta=0, digest="", own_N=own_N)

    @property
    def recommender(self) -> Recommender:
        """The page maker."""
        return self.release.recommender

    def with_fresh_items(self, facts: Sequence[ItemFacts | None], item_features: Columns | None) -> CatalogueState:
        """Return the state with newer facts and features of its `N` items; what deltas say stays."""
        kept = [None if own else fact for fact, own in zip(facts, self.own_N.tolist(), strict=True)]
        return self._with(with_fresh_items(self.recommender, kept, item_features))

    def _with(self, recommender: Recommender, **changes: Any) -> CatalogueState:
        release = dataclasses.replace(self.release, recommender=recommender)
        return dataclasses.replace(self, release=release, **changes)


def caught_up(
    state: CatalogueState, item_features: ItemFeatures | None = None, until: int | None = None
) -> tuple[CatalogueState, DeltaError | None]:
    """Return a state with all deltas of its release up to the first that cannot be used, and why it cannot.

    Args:
        state: Stays as it is; it comes back where there is nothing new.
        item_features: Of new items, for a ranker that looks at them.
        until: Number of the last delta wanted; None for all there are.
    """
    deltas, error = read_deltas(state.release.directory, state.delta, state.digest, until)
    try:
        return _behind(state, deltas, item_features), error
    except DeltaError:
        # what the deltas before the bad one withdraw must not be shown for its sake
        return _one_by_one(state, deltas, item_features)


def _one_by_one(
    state: CatalogueState, deltas: Sequence[Delta], item_features: ItemFeatures | None
) -> tuple[CatalogueState, DeltaError | None]:
    for delta in deltas:
        try:
            state = _behind(state, [delta], item_features)
        except DeltaError as error:
            return state, error
    return state, None


def _behind(state: CatalogueState, deltas: Sequence[Delta], item_features: ItemFeatures | None) -> CatalogueState:
    """Return a state with the deltas that follow it.

    Raises:
        DeltaError: They cannot be used.
    """
    changes = together(deltas)
    if changes is None:
        return state
    last = deltas[-1]
    try:
        newer = with_changes(state, changes, item_features)
    except Exception as failure:  # whatever a damaged part makes a library raise
        raise DeltaError(
            f"catalogue delta {last.manifest.number} of release {last.manifest.release_id} cannot be used: {failure}"
        ) from failure
    return dataclasses.replace(newer, delta=last.manifest.number, digest=last.digest)


def catalogue_version(catalogue: str, delta: int) -> str:
    """Return what logged pages say of the catalogue they were made with.

    Example:
        >>> catalogue_version("1f0c9a52", 3), catalogue_version("1f0c9a52", 0)
        ('1f0c9a52+000003', '1f0c9a52')
    """
    return f"{catalogue}+{delta:06d}" if delta else catalogue


def with_changes(state: CatalogueState, changes: Changes, item_features: ItemFeatures | None = None) -> CatalogueState:
    """Return a state with the changes of deltas; it has answered before it is returned.

    Args:
        state: Stays as it is.
        changes: What follows its last delta.
        item_features: Of new items, for a ranker that looks at them.

    Raises:
        ValueError: The changes do not fit the release.
    """
    maker = state.recommender
    if len(changes.new_ids):
        catalogue = maker.catalogue.with_new_items(changes.new_ids, changes.codes_ML, changes.content_MV)
        new = _new_items(catalogue, changes, item_features)
        retrievers = [grown(retriever, new) for retriever in maker.retrievers.values()]
        facts = _facts(maker.facts, catalogue, changes)
        maker = maker.with_parts(
            catalogue=catalogue, retrievers=retrievers, facts=facts, ranker=grown(maker.ranker, new)
        )
    else:
        maker = maker.with_parts(facts=_facts(maker.facts, maker.catalogue, changes))
    _warm_up(maker)
    own_N = np.append(state.own_N, np.ones(len(changes.new_ids), dtype=bool))
    own_N[_known(maker.catalogue, changes.touched)] = True
    return state._with(maker, own_N=own_N)


def _new_items(catalogue: Catalogue, changes: Changes, item_features: ItemFeatures | None) -> NewItems:
    rows = changes.items.take(pc.index_in(changes.new_ids, value_set=changes.items["item_id"].combine_chunks()))
    return NewItems(
        catalogue=catalogue,
        columns=item_columns(rows),
        vectors_MD=changes.vectors_MD,
        item_features=None if item_features is None else item_features(changes.new_ids),
    )


def _facts(facts: CatalogueFacts, catalogue: Catalogue, changes: Changes) -> CatalogueFacts:
    replaced = pc.is_in(facts.table["item_id"], value_set=changes.items["item_id"].combine_chunks())
    rows = pa.concat_tables([facts.table.filter(pc.invert(replaced)), changes.items])
    gone = pc.is_in(rows["item_id"], value_set=changes.withdrawn)
    available = pc.if_else(gone, False, rows["available"])
    return CatalogueFacts(rows.set_column(rows.schema.get_field_index("available"), "available", available), catalogue)


def _known(catalogue: Catalogue, ids: pa.Array) -> npt.NDArray[np.int64]:
    """Return the numbers of ids.

    Raises:
        ValueError: The catalogue does not hold one of them.
    """
    numbers = catalogue.numbers(ids)
    if (numbers < 0).any():
        unknown = ids.filter(pa.array(numbers < 0)).to_pylist()
        raise ValueError(f"expected items of the release or new ones with semantic IDs, got {unknown[:3]}")
    return numbers


def _warm_up(recommender: Recommender) -> None:
    """Ask every part once: what cannot answer is found before it is used, and first requests do not wait for caches."""
    moment, last = now(), len(recommender.catalogue) - 1
    request = RequestBatch(
        user_ids=["nobody"],
        times_B=np.array([moment]),
        history_items=np.array([last]),
        history_events=np.array([EVENT_CODE[PURCHASE]], dtype=np.int8),
        history_times=np.array([moment - 1]),
        history_offsets=np.array([0, 1]),
        excluded_items=np.zeros(0, dtype=np.int64),
        excluded_offsets=np.zeros(2, dtype=np.int64),
    )
    found = recommender.candidates(request, 1)
    if recommender.ranker is not None:
        recommender.ranker.score(request, found[0].items_BK)

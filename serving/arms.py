"""Champion and challenger in one process: who is served by which is decided by a hash of the user, so that it stays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.recommend.release import Release, load_release
from models.registry import CHALLENGER, CHAMPION
from serving.api import ApiError, RecommendRequest, SimilarResponse, VersionResponse
from serving.item_details import ItemDetails
from serving.metrics import ServiceMetrics
from serving.pages import Answer
from serving.service import RecommendService
from serving.shares import in_share
from serving.users import UserResponse

_log = logging.getLogger(__name__)


class Arms:
    """Two services as one; without a challenger, the champion serves everybody.

    Args:
        champion: Serves all others, and whatever is not about a user.
        challenger: Serves its share of the users, None for no experiment.
        share: The challenger's share of the users, 0 to 1.
        salt: Draws them.
    """

    def __init__(
        self, champion: RecommendService, challenger: RecommendService | None, *, share: float, salt: str
    ) -> None:
        self._champion, self._challenger = champion, challenger
        self._share, self._salt = share, salt

    @property
    def metrics(self) -> ServiceMetrics:
        """Of both."""
        return self._champion.metrics

    @property
    def release(self) -> Release:
        """The champion."""
        return self._champion.release

    @property
    def services(self) -> list[RecommendService]:
        """Champion, then challenger if there is one."""
        return [self._champion] if self._challenger is None else [self._champion, self._challenger]

    def check(self, request: RecommendRequest) -> None:
        """See `RecommendService.check`."""
        self._of([request.user_id])[0].check(request)

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Answer | ApiError]:
        """See `RecommendService.recommend`; each arm answers its users together."""
        return self._answers(requests, lambda service, its: service.recommend(its))

    def fallback(self, requests: Sequence[RecommendRequest], reason: str) -> list[Answer | ApiError]:
        """See `RecommendService.fallback`; likewise."""
        return self._answers(requests, lambda service, its: service.fallback(its, reason))

    def log(self, row: Mapping[str, object]) -> None:
        """See `RecommendService.log`."""
        self._champion.log(row)

    def similar(self, item_id: str, k: int) -> SimilarResponse:
        """See `RecommendService.similar`."""
        return self._champion.similar(item_id, k)

    def user(self, user_id: str, limit: int) -> UserResponse:
        """See `RecommendService.user`."""
        return self._of([user_id])[0].user(user_id, limit)

    def some_users(self, count: int) -> list[str]:
        """See `RecommendService.some_users`."""
        return self._champion.some_users(count)

    def items(self, item_ids: Sequence[str]) -> list[ItemDetails]:
        """See `RecommendService.items`."""
        return self._champion.items(item_ids)

    def version(self) -> VersionResponse:
        """Say what is running."""
        version = self._champion.version()
        if self._challenger is not None:
            version.challenger = self._challenger.release.manifest.release_id
            version.challenger_share = self._share
        return version

    def check_ready(self) -> None:
        """See `RecommendService.check_ready`."""
        self._champion.check_ready()

    def refresh_facts(self) -> bool:
        """See `RecommendService.refresh_facts`."""
        return any([service.refresh_facts() for service in self.services])

    def follow_deltas(self) -> bool:
        """See `RecommendService.follow_deltas`."""
        return any([service.follow_deltas() for service in self.services])

    def _answers(
        self,
        requests: Sequence[RecommendRequest],
        answer: Callable[[RecommendService, list[RecommendRequest]], list[Answer | ApiError]],
    ) -> list[Answer | ApiError]:
        """Let each arm answer the requests of its users together."""
        answering = self._of([request.user_id for request in requests])
        answers = {
            id(service): iter(
                answer(service, [request for request, one in zip(requests, answering, strict=True) if one is service])
            )
            for service in self.services
            if any(one is service for one in answering)
        }
        return [next(answers[id(service)]) for service in answering]

    def _of(self, user_ids: Sequence[str]) -> list[RecommendService]:
        if self._challenger is None:
            return [self._champion] * len(user_ids)
        chosen = in_share(user_ids, self._share, self._salt)
        return [self._challenger if challenged else self._champion for challenged in chosen]


def load_arms(
    champion: Path,
    challenger: Path | None,
    make: Callable[[Release, str], RecommendService],
    *,
    arm: str = CHAMPION,
    share: float,
    salt: str | None,
) -> Arms:
    """Load both releases; a challenger that cannot be loaded is logged, and everybody gets the champion.

    Args:
        champion: Folder of the release.
        challenger: Folder of the other one, None for no experiment.
        make: Makes a service of a release and the name of its arm.
        arm: Name of the champion's arm.
        share: See `Arms`.
        salt: See `Arms`; None for the challenger's release id, so that each experiment draws users of its own.

    Raises:
        FileNotFoundError: There is no champion.
        ReleaseError: The champion cannot be loaded.
    """
    serving, other = make(load_release(champion), arm), None
    if challenger is not None and share > 0:
        try:
            other = make(load_release(challenger), CHALLENGER)
        except Exception:  # whatever is wrong with a challenger, nobody need go without a page for it
            _log.exception("challenger %s cannot be loaded; everybody gets the champion", challenger)
    drawn_by = "" if other is None else other.release.manifest.release_id
    return Arms(serving, other, share=share, salt=drawn_by if salt is None else salt)

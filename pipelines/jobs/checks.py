"""What the sections of the settings must agree on: checked before the first stage, for training takes long."""

from __future__ import annotations

from collections.abc import Iterator

from models.recommend.vector_index_config import IVF_PQ
from models.training import genrec, ranker, two_tower
from models.training.config import check_monitor
from pipelines.jobs.settings import DailySettings


def check_settings(settings: DailySettings) -> None:
    """Refuse settings with which a later stage would fail, whatever the data.

    Raises:
        ValueError: All such mistakes.
    """
    mistakes = [*_monitors(settings), *_widths(settings)]
    if mistakes:
        raise ValueError("settings that do not fit together:\n  " + "\n  ".join(mistakes))


def _monitors(settings: DailySettings) -> Iterator[str]:
    for section, config, metrics in (
        ("two_tower_train", settings.two_tower_train, two_tower.MONITORS),
        ("train", settings.train, genrec.MONITORS),
        ("ranker_train", settings.ranker_train, ranker.MONITORS),
    ):
        try:
            check_monitor(section, config, metrics)
        except ValueError as error:
            yield str(error)


def _widths(settings: DailySettings) -> Iterator[str]:
    width, prefix, index = settings.two_tower.hidden[-1], settings.genrec.user_prefix, settings.index
    if prefix not in (0, width):
        yield f"genrec.user_prefix: expected {width}, the last of two_tower.hidden, or 0 to go without, got {prefix}"
    if index.kind == IVF_PQ and width % index.pq_bytes:
        yield f"index.pq_bytes: expected a divisor of {width}, the last of two_tower.hidden, got {index.pq_bytes}"

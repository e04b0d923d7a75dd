"""A trained ranker on disk, loaded without TorchRec.

Its files lie as `models.training.runs` says, `calibration.json` beside them: how the heads' probabilities are put
right, and how well that fits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from features.workspace import Workspace
from models.ranker.calibration import Calibration
from models.ranker.config import RankerConfig
from models.ranker.layout import Layout
from models.ranker.model import UnifiedRanker
from models.training.config import stored_config
from models.training.export import load_weights
from models.training.runs import WEIGHTS, Runs

KIND = "ranker"
REWARD = "reward"
"""A ranker that rewards the alignment of GenRec: the same model, of earlier pages, never served."""
CALIBRATION = "calibration.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankerRun:
    """What a ranker was trained from, what its inputs mean and how its probabilities are calibrated."""

    name: str
    model: RankerConfig
    layout: Layout
    log_odds: tuple[float, ...]
    """Where the heads started."""
    calibration: Calibration
    config: dict[str, Any]
    """The whole `config.json`."""


def load_ranker(workspace: Workspace, run: str | None = None, kind: str = KIND) -> tuple[UnifiedRanker, RankerRun]:
    """Load a finished run for evaluation or serving.

    Args:
        workspace: A workspace on this machine.
        run: The run's name; None for the latest.
        kind: `ranker`, or `reward` for a reward model.

    Returns:
        The model in evaluation mode, with a plain table, and what it was trained from.

    Raises:
        MissingRunError: There is no finished run of that name, or none at all.
        ValueError: A file does not have the digest its manifest tells.
    """
    finished = Runs(workspace, kind).open(run)
    config, folder = finished.config, finished.folder
    fitted = json.loads((folder / CALIBRATION).read_bytes())["calibration"]
    trained = RankerRun(
        name=finished.name,
        model=_model_config(config["model"]),
        layout=Layout.from_json(config["layout"]),
        log_odds=tuple(config["log_odds"]),
        calibration=Calibration(slopes=tuple(fitted["slopes"]), intercepts=tuple(fitted["intercepts"])),
        config=config,
    )
    model = UnifiedRanker(trained.model, trained.layout, log_odds=trained.log_odds)
    load_weights(model, folder / WEIGHTS)
    return model.eval(), trained


def _model_config(document: Mapping[str, Any]) -> RankerConfig:
    lists = {name: tuple(value) for name, value in document.items() if isinstance(value, list)}
    advice = "train it again: `pagewise run`, or `pagewise train ranker`"
    return stored_config(RankerConfig, {**document, **lists}, advice)

"""What a trained GenRec was made from, and how it is loaded; its files lie in `checkpoints/genrec/` (`runs`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

from features.semantic_ids import SidVocabulary
from features.workspace import Workspace
from models.alignment.config import AlignConfig
from models.genrec.config import DecodeConfig, GenRecConfig
from models.genrec.model import GenRec
from models.training.config import TrainConfig, stored_config
from models.training.export import load_weights
from models.training.runs import ALIGNED, WEIGHTS, Runs

KIND = "genrec"
_ALIGNMENT = ("aligned_from", "align", "reward", "decode")
_ADVICE = "train GenRec again: `pagewise run`, or `pagewise train genrec` and `pagewise align`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenRecRun:
    """What a GenRec was trained from; enough to build the module its weights fit."""

    model: GenRecConfig
    train: TrainConfig
    seed: int
    generation: str
    """Of the semantic IDs."""
    codes_per_level: tuple[int, ...]
    items: int
    """Rows of the item table: items of the catalogue at training time."""
    catalogue: str
    """Fingerprint of item ids and codes."""
    sequences: str
    """Fingerprint of the table `sequences`."""
    code_version: str
    two_tower: str | None = None
    """The two-tower run whose user vectors its pages start from; None without `user_prefix`."""
    pretrained: str | None = None
    """Digest of the checkpoint that its blocks started from."""
    vector_width: int = 0
    """Width of the item vectors; 0 without `item_vectors`."""
    aligned_from: str | None = None
    """The run whose weights the alignment started from; None for a supervised run."""
    align: AlignConfig | None = None
    """How it was aligned."""
    reward: str | None = None
    """The reward model's run."""
    warm_from: str | None = None
    """The run whose weights it started from."""
    split: dict[str, Any] | None = None
    """How the sequences were split."""
    decode: DecodeConfig | None = None
    """How held-out pages were answered, by which the aligned weights were chosen; None for a supervised run."""

    @property
    def name(self) -> str:
        """The run's name: the generation's number and a digest of all inputs but the code version."""
        apart = {"code_version", "split", *(_ALIGNMENT if self.aligned_from is None else ())}
        apart |= {"warm_from"} if self.warm_from is None else set()
        inputs = {key: value for key, value in dataclasses.asdict(self).items() if key not in apart}
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.generation.split('-')[0]}-{digest}"

    def build(self, tables: Any = None) -> GenRec:
        """Return the untrained module; see `GenRec` for `tables`."""
        return GenRec(self.model, SidVocabulary(self.codes_per_level), self.items, tables, self.vector_width)

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> GenRecRun:
        """Read what `to_json` wrote."""
        parts = {
            "model": stored_config(GenRecConfig, document["model"], _ADVICE),
            "train": stored_config(TrainConfig, document["train"], _ADVICE),
            "codes_per_level": tuple(document["codes_per_level"]),
            "align": stored_config(AlignConfig, document["align"], _ADVICE) if document.get("align") else None,
            "decode": stored_config(DecodeConfig, document["decode"], _ADVICE) if document.get("decode") else None,
        }
        return cls(**{**document, **parts})


def newest_genrec(workspace: Workspace, say: Callable[[str], None] | None = None) -> str:
    """Return the newest aligned run where it was made from the latest supervised one, else that one.

    Args:
        workspace: Holds the runs; on this machine.
        say: Told of an aligned run that is taken, or left out as one of other weights.

    Raises:
        MissingRunError: There is no finished run.
    """
    runs = Runs(workspace, KIND)
    latest, aligned = runs.latest(), runs.pointed_at(ALIGNED)
    if aligned is None:
        return latest
    if not runs.is_finished(aligned):
        if say is not None:
            say(f"GenRec run {latest}, supervised; left out: {aligned}, aligned but gone; run `pagewise align`")
        return latest
    parent = runs.open(aligned).config.get("aligned_from")
    if parent is None:
        raise ValueError(
            f"{runs.folder(ALIGNED)}: expected it to name an aligned run, but {aligned} is none; remove that file, or "
            "run `pagewise align`"
        )
    if say is not None and parent == latest:
        say(f"GenRec run {aligned}, aligned from {latest}")
    elif say is not None:
        say(f"GenRec run {latest}, supervised; left out: {aligned}, aligned from {parent}; run `pagewise align`")
    return aligned if parent == latest else latest


def load_genrec(workspace: Workspace, run: str | None = None) -> tuple[GenRec, GenRecRun]:
    """Load a finished run for evaluation or serving.

    Args:
        workspace: A workspace on this machine.
        run: The run's name; None for the latest supervised one.

    Returns:
        The model in evaluation mode, with plain tables, and what it was trained from.

    Raises:
        MissingRunError: There is no finished run of that name, or none at all.
        ValueError: A file does not have the digest its manifest tells.
    """
    finished = Runs(workspace, KIND).open(run)
    record = GenRecRun.from_json(finished.config)
    model = record.build()
    load_weights(model, finished.folder / WEIGHTS)
    return model.eval(), record

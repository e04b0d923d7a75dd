"""Starting GenRec from a local checkpoint folder of the Qwen2 family; transformers is not needed to read it.

The blocks and the final norm are taken over. Text tokens mean nothing to a shop's semantic IDs, so their embeddings are
not: every new token is drawn with the mean and the spread that the checkpoint's embeddings have in each dimension.
Tokens that all start from the mean stay alike (GTI, arXiv 2604.02324), which is also why they train alone at first: see
`GenRecConfig.hold_pretrained`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from models.genrec.config import GenRecConfig
from models.genrec.model import GenRec

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_HASHED_BYTES = 1 << 24
"""Read at once while hashing."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that was looked at, not read.

    Attributes:
        folder: Where it lies.
        shape: What `GenRecConfig` must agree with, by its names.
        files: The weights file of each tensor, by the tensor's name.
    """

    folder: Path
    shape: dict[str, Any]
    files: dict[str, Path]

    @classmethod
    def open(cls, folder: str) -> Checkpoint:
        """Look at a folder.

        Raises:
            FileNotFoundError: `config.json` or a weights file is missing.
            ValueError: It is no Qwen2 model, or one with something that GenRec does not have.
        """
        path = Path(folder).expanduser()
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"genrec.pretrained: expected a folder with {CONFIG} and {WEIGHTS} (or {INDEX} and its parts), as "
                f"save_pretrained writes them, got {path}, which has no {CONFIG}"
            )
        return cls(path, _shape(path, _json(path / CONFIG)), _files(path))

    def check(self, config: GenRecConfig) -> None:
        """Check that the model has the checkpoint's shape.

        Raises:
            ValueError: It differs; the message holds the settings to use.
        """
        wrong = [
            f"{name} {getattr(config, name)} (checkpoint: {value})"
            for name, value in self.shape.items()
            if getattr(config, name) != value
        ]
        if wrong:
            overrides = " ".join(f"genrec.{name}={value}" for name, value in self.shape.items())
            raise ValueError(
                f"genrec.pretrained: expected the shape of {self.folder}, got {', '.join(wrong)}; use {overrides}"
            )

    def digest(self) -> str:
        """Return 16 digits that tell checkpoints apart by what their files hold."""
        digest = hashlib.sha256()
        for file in [self.folder / CONFIG, *sorted(set(self.files.values()))]:
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(_HASHED_BYTES):
                    digest.update(block)
        return digest.hexdigest()[:16]

    def tensor(self, name: str) -> Tensor:
        """Read one tensor as float32.

        Raises:
            ValueError: The checkpoint does not hold it, or its file cannot be read.
        """
        if name not in self.files:
            raise ValueError(
                f"genrec.pretrained: expected a Qwen2ForCausalLM with a tensor {name} in {self.folder}, got "
                f"{len(self.files)} others: {', '.join(sorted(self.files)[:3])}, ..."
            )
        with _opened(self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor.float()


def start_from(model: GenRec, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's blocks and final norm into `model`, and draw its tokens like the checkpoint's.

    Args:
        model: Untrained; changed in place, and held in training as `hold_pretrained` tells. New tokens follow torch's
            global random numbers.
        checkpoint: Of the same shape.

    Raises:
        ValueError: The shape differs, or the checkpoint lacks a tensor.
    """
    checkpoint.check(model.config)
    state = model.state_dict()
    taken = model.pretrained_names()
    with torch.no_grad():
        for name in sorted(taken):
            found = checkpoint.tensor(name)
            if found.shape != state[name].shape:
                raise ValueError(
                    f"{checkpoint.files[name]}: expected {name} of shape {tuple(state[name].shape)}, as "
                    f"{CONFIG} tells, got {tuple(found.shape)}; the checkpoint is damaged"
                )
            state[name].copy_(found)
        _draw_like(model.model.embed_tokens.weight, checkpoint.tensor(EMBEDDINGS))
        if not model.config.tie_embeddings:
            _draw_like(model.lm_head.weight, checkpoint.tensor(HEAD if HEAD in checkpoint.files else EMBEDDINGS))
    model.held_until = model.config.hold_pretrained


def _draw_like(new_VD: Tensor, known_UD: Tensor) -> None:
    """Fill rows with normal numbers of the mean and standard deviation of each column of known rows."""
    new_VD.normal_().mul_(known_UD.std(dim=0)).add_(known_UD.mean(dim=0))


def _shape(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of a Qwen2 configuration, older or newer writing, by the names of `GenRecConfig`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    expected = {
        "model_type": ("qwen2", config.get("model_type")),
        "hidden_act": ("silu", config.get("hidden_act", "silu")),
        "use_sliding_window": (False, config.get("use_sliding_window", False)),
        "rope_type": ("default", rope.get("rope_type", rope.get("type", "default"))),
    }
    if heads and width and config.get("head_dim") is not None:
        expected["head_dim"] = (width // heads, config["head_dim"])
    wrong = [f"{name} {want!r}, got {got!r}" for name, (want, got) in expected.items() if want != got]
    sizes = {
        "layers": config.get("num_hidden_layers"),
        "width": width,
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads", heads),
        "ffn_width": config.get("intermediate_size"),
        "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
    }
    wrong += [f"a size for {name}, got none" for name, value in sizes.items() if value is None]
    if wrong:
        raise ValueError(
            f"genrec.pretrained: {folder / CONFIG}: expected {'; '.join(wrong)}; take a checkpoint of Qwen2 or Qwen2.5"
        )
    return sizes


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor: of the index where there is one, else all of the one file."""
    if (folder / INDEX).is_file():
        files = {name: folder / file for name, file in _json(folder / INDEX).get("weight_map", {}).items()}
        missing = sorted({file.name for file in files.values() if not file.is_file()})
        if missing:
            raise FileNotFoundError(
                f"genrec.pretrained: {folder / INDEX} lists {', '.join(missing)}, which {folder} does not hold; "
                "download the checkpoint again"
            )
        return files
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"genrec.pretrained: expected {WEIGHTS} or {INDEX} in {folder}, there is neither; other formats are not "
            "read: save the model again with safe_serialization=True"
        )
    with _opened(folder / WEIGHTS) as file:
        return dict.fromkeys(file.keys(), folder / WEIGHTS)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # safetensors raises a class of its own, straight from Exception
        raise ValueError(f"genrec.pretrained: {path} is no safetensors file ({error}); download it again") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"genrec.pretrained: {path} is no JSON document ({error}); download it again") from error
    return document

"""Starting from checkpoint folders that Hugging Face itself wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from genrec_cases import make_catalogue

from models.genrec.config import GenRecConfig
from models.genrec.hf import to_huggingface
from models.genrec.model import GenRec
from models.genrec.pretrained import Checkpoint, start_from

transformers = pytest.importorskip("transformers")

SHAPE = {"layers": 2, "width": 16, "heads": 4, "kv_heads": 2, "ffn_width": 24, "rope_theta": 500.0, "norm_eps": 1e-5}
TEXT_TOKENS = 3000


def make_peer(**changes: object) -> torch.nn.Module:
    """A language model whose text embeddings have mean d / 10 and standard deviation 1 + d in dimension d."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": TEXT_TOKENS,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": True,
    }
    peer = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**shape, **changes}))
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.normal_(std=0.3)
        numbers = torch.arange(16.0)
        peer.model.embed_tokens.weight.copy_(torch.randn(TEXT_TOKENS, 16) * (1 + numbers) + numbers / 10)
    return peer


@pytest.fixture(scope="module")
def peer() -> torch.nn.Module:
    return make_peer()


@pytest.fixture
def folder(peer: torch.nn.Module, tmp_path: Path) -> Path:
    peer.save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen"


def started(folder: Path, seed: int = 1, codes: tuple[int, ...] = (400, 400), **changes: object) -> GenRec:
    catalogue = make_catalogue(np.random.default_rng(0), codes=codes)
    torch.manual_seed(seed)
    config = GenRecConfig(pretrained=str(folder), **{**SHAPE, **changes})  # type: ignore[arg-type]
    model = GenRec(config, catalogue.vocabulary, len(catalogue))
    start_from(model, Checkpoint.open(str(folder)))
    return model


def same_blocks(model: GenRec, peer: torch.nn.Module) -> bool:
    theirs = peer.state_dict()
    return all(torch.equal(model.state_dict()[name], theirs[name].float()) for name in model.pretrained_names())


@pytest.mark.integration
def test_blocks_and_norm_are_the_checkpoints(folder: Path, peer: torch.nn.Module) -> None:
    model = started(folder)
    assert len(model.pretrained_names()) == 2 * (2 + 7 + 3) + 1  # two norms, 7 matrices, 3 biases; the final norm
    assert same_blocks(model, peer)


def test_exported_again_it_computes_what_the_checkpoint_does(folder: Path, peer: torch.nn.Module) -> None:
    exported = to_huggingface(started(folder))
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden = [each.eval().model(inputs_embeds=x).last_hidden_state for each in (exported, peer)]
    torch.testing.assert_close(*hidden)


def test_new_tokens_have_the_spread_of_the_old_and_differ_from_each_other(folder: Path) -> None:
    weight = started(folder, codes=(4000, 4000)).model.embed_tokens.weight.detach()
    known = Checkpoint.open(str(folder)).tensor("model.embed_tokens.weight")
    # 8,000 draws tell a mean to 1.1 % of the spread and a spread to 0.8 %.
    assert ((weight.mean(dim=0) - known.mean(dim=0)).abs() < 0.05 * known.std(dim=0)).all()
    torch.testing.assert_close(weight.std(dim=0), known.std(dim=0), rtol=0.04, atol=0)
    assert len(torch.unique(weight, dim=0)) == len(weight)


def test_only_blocks_and_norm_are_held_and_only_for_a_while(folder: Path) -> None:
    model = started(folder, hold_pretrained=0.25)
    assert model.held_names(0.2499) == model.pretrained_names()
    assert model.held_names(0.25) == set()
    fresh = GenRec(model.config, model.vocabulary, 40)
    assert fresh.held_names(0.0) == set()  # as for an alignment, which starts from a trained run


def test_new_tokens_follow_the_seed(folder: Path) -> None:
    first, again, other = (started(folder, seed).model.embed_tokens.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_untied_head_is_drawn_like_the_checkpoints_head(tmp_path: Path) -> None:
    peer = make_peer(tie_word_embeddings=False)
    with torch.no_grad():
        peer.lm_head.weight.copy_(100 + torch.randn(TEXT_TOKENS, 16))
    peer.save_pretrained(tmp_path)
    model = started(tmp_path, tie_embeddings=False)
    assert 99 < model.lm_head.weight.mean() < 101
    assert model.model.embed_tokens.weight.mean() < 2


def test_parts_and_half_precision_are_read(peer: torch.nn.Module, tmp_path: Path) -> None:
    half = make_peer().to(torch.bfloat16)
    half.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same_blocks(started(tmp_path), half)


def test_configurations_of_older_writing_are_read(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    assert Checkpoint.open(str(folder)).shape == SHAPE


def test_another_shape_is_answered_with_the_settings_to_use(folder: Path) -> None:
    expected = (
        r"got layers 3 \(checkpoint: 2\), rope_theta 10000.0 \(checkpoint: 500.0\); use genrec.layers=2 "
        r"genrec.width=16 genrec.heads=4 genrec.kv_heads=2 genrec.ffn_width=24 genrec.rope_theta=500.0 "
        r"genrec.norm_eps=1e-05$"
    )
    with pytest.raises(ValueError, match=expected):
        started(folder, layers=3, rope_theta=10_000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, r"expected model_type 'qwen2', got 'llama'; take a checkpoint of Qwen2"),
        ({"use_sliding_window": True}, "expected use_sliding_window False, got True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0}}, "expected rope_type 'default', got 'yarn'"),
        ({"head_dim": 8}, "expected head_dim 4, got 8"),
        ({"hidden_size": None}, "a size for width, got none"),
    ],
)
def test_what_genrec_cannot_be_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        Checkpoint.open(str(folder))


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a folder with config.json .* got .*/nothing"):
        Checkpoint.open(str(tmp_path / "nothing"))


def test_weights_of_another_format_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"expected model.safetensors or .*index.json .* there is neither"):
        Checkpoint.open(str(folder))


def test_a_truncated_file_is_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is no safetensors file \(.*\); download it again"):
        Checkpoint.open(str(folder))


def test_a_missing_part_is_refused(peer: torch.nn.Module, tmp_path: Path) -> None:
    peer.save_pretrained(tmp_path, max_shard_size="100KB")
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"index.json lists model-00001-of-.*, which .* does not hold"):
        Checkpoint.open(str(tmp_path))


def test_a_model_without_a_head_class_is_refused(peer: torch.nn.Module, tmp_path: Path) -> None:
    """`Qwen2Model` saves other names."""
    peer.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"expected a Qwen2ForCausalLM with a tensor model.layers.0"):
        started(tmp_path)


def test_the_digest_tells_checkpoints_apart(folder: Path, tmp_path: Path) -> None:
    digest = Checkpoint.open(str(folder)).digest()
    shutil.copytree(folder, tmp_path / "copy")
    assert Checkpoint.open(str(tmp_path / "copy")).digest() == digest
    make_peer(rms_norm_eps=1e-6).save_pretrained(tmp_path / "copy")
    assert Checkpoint.open(str(tmp_path / "copy")).digest() != digest

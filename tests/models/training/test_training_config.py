import subprocess
import sys

import pytest

from models.training.config import TrainConfig, stored_config


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ValueError, match="epochs: expected > 0, got 0") as caught:
        TrainConfig(epochs=0, warmup_fraction=1.0, ema_decay=1.0, precision="half", checkpoint_every_seconds=None)
    message = str(caught.value)
    assert "warmup_fraction: expected 0 <= fraction < 1, got 1.0" in message
    assert "ema_decay: expected 0 < decay < 1 or none, got 1.0" in message
    assert "precision: expected one of auto, float32, bfloat16, got 'half'" in message
    assert "checkpoint_every_steps, checkpoint_every_seconds: expected at least one number" in message


def test_settings_that_another_version_stored_are_named():
    assert stored_config(TrainConfig, {"epochs": 3}, "train again") == TrainConfig(epochs=3)
    with pytest.raises(
        ValueError, match=r"stored TrainConfig: .* got epoch, speed: another version wrote it; train again"
    ):
        stored_config(TrainConfig, {"epochs": 3, "speed": 1, "epoch": 2}, "train again")


def test_columns_are_not_split_under_row_wise_adagrad():
    with pytest.raises(ValueError, match="got 64; use table_optimizer=adagrad"):
        TrainConfig(column_wise_from_dimensions=64)
    assert TrainConfig(column_wise_from_dimensions=64, table_optimizer="sgd").column_wise_from_dimensions == 64
    with pytest.raises(ValueError, match="table_optimizer: expected one of rowwise_adagrad, adagrad, sgd, got 'adam'"):
        TrainConfig(table_optimizer="adam")


def test_the_configuration_imports_no_heavy_library():
    program = "import sys, models.training.config; print([m for m in ('torch', 'numpy', 'mlflow') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

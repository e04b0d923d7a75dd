from __future__ import annotations

import subprocess
import sys

import pytest

from serving.config import ServeConfig


def test_all_mistakes_are_named_at_once():
    expected = r"serve: port: .*got 70000; request_timeout_s: .*got 0; max_in_flight: .*max_batch = 64, got 10"
    with pytest.raises(ValueError, match=expected):
        ServeConfig(port=70_000, request_timeout_s=0, max_batch=64, max_in_flight=10)


def test_stages_may_be_left_out_but_not_be_fewer_than_none():
    with pytest.raises(ValueError, match=r"stage_cpus: .*got 0; retrieval_replicas: expected 0 or more, got -1"):
        ServeConfig(stage_cpus=0, retrieval_replicas=-1)


def test_configs_import_nothing_heavy():
    code = "import sys, serving.config, features.store.config; print({'ray', 'torch', 'redis'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_challengers_share_is_a_share():
    with pytest.raises(ValueError, match=r"challenger_share: expected 0 to 1, got 1\.5"):
        ServeConfig(challenger_share=1.5)
    with pytest.raises(ValueError, match=r"part_timeout_s: .* got 0; cursor_ttl_s: .* got -1"):
        ServeConfig(part_timeout_s=0, cursor_ttl_s=-1)

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from serving import access
from serving.access import Keys, RateLimits, new_key, read_keys


def test_a_key_is_known_by_its_hash_only(tmp_path):
    key, line = new_key("shop")
    assert line == f"shop:{hashlib.sha256(key.encode()).hexdigest()}"
    (tmp_path / "keys").write_text(f"# who may ask\n\n{line}:5\n")
    keys = Keys(tmp_path / "keys")
    assert (keys.holder(key).name, keys.holder(key).rate_per_s) == ("shop", 5.0)
    assert keys.holder(key + "x") is None
    assert keys.holder("") is None


def test_keys_of_the_environment_are_separated_by_commas():
    (ann, first), (bob, second) = new_key("ann"), new_key("bob")
    keys = Keys(None, f"{first},{second}")
    assert [keys.holder(key).name for key in (ann, bob)] == ["ann", "bob"]
    assert not Keys(None, "")


def test_a_struck_out_key_is_refused_without_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "LOOK_AGAIN_S", 0.0)
    (old, first), (new, second) = new_key("old"), new_key("new")
    (tmp_path / "keys").write_text(first)
    keys = Keys(tmp_path / "keys")
    (tmp_path / "keys").write_text(f"{second}\n")
    assert (keys.holder(old), keys.holder(new).name) == (None, "new")
    (tmp_path / "keys").write_text("half wri")
    assert keys.holder(new).name == "new"


def test_an_empty_file_lets_nobody_in(tmp_path):
    (tmp_path / "keys").touch()
    assert Keys(tmp_path / "keys")


def test_a_wrong_line_is_told_by_its_number_and_not_shown():
    with pytest.raises(ValueError, match=r"keys, line 2: expected name:sha256 of the key") as caught:
        read_keys("# keys\nshop:hunter2", "keys")
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"keys_file: there is no file .*nowhere; .*python -m serving\.access NAME"
    ):
        Keys(tmp_path / "nowhere")


def test_keys_are_made_on_the_command_line():
    output = subprocess.run(
        [sys.executable, "-m", "serving.access", "shop"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    key = output[1].removeprefix("the key, shown this once: ")
    assert Keys(None, output[0]).holder(key).name == "shop"


def test_a_bucket_holds_a_second_and_fills_again():
    now = 0.0
    limits = RateLimits(clock=lambda: now)
    assert [limits.wait_s("ann", 2.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert limits.wait_s("bob", 2.0) == 0.0
    now = 0.25
    assert limits.wait_s("ann", 2.0) == 0.25
    now = 0.5
    assert limits.wait_s("ann", 2.0) == 0.0


def test_buckets_of_many_addresses_do_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(access, "BUCKETS", 3)
    limits = RateLimits(clock=lambda: 0.0)
    for address in "abcd":
        limits.wait_s(address, 1.0)
    assert list(limits._buckets) == ["b", "c", "d"]

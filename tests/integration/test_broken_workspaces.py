"""What the command line says of workspaces that are broken, foreign or empty: one message, exit code 2."""

from __future__ import annotations

import shutil

import pytest
from release_cases import commit, make_genrec, make_workspace

from features.schemas import ITEMS
from features.workspace import Workspace
from models.tokenizer.bundle import Bundle
from pagewise.main import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("broken") / "ws")
    make_genrec(workspace)
    return workspace


@pytest.fixture
def workspace(published, tmp_path) -> Workspace:
    return Workspace(shutil.copytree(published.root, tmp_path / "ws"))


def garble_codes(workspace):
    path = workspace.local_path("semantic_ids", Bundle.load(workspace).generation, "codes.parquet")
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))


def lose_generation(workspace):
    make_genrec(workspace, generation="000009-deadbeef")


def empty_items(workspace):
    commit(workspace, "clean_items", ITEMS.empty_table())


@pytest.mark.parametrize(
    ("breakage", "command", "message"),
    [
        (garble_codes, "evaluate", "codes.parquet: expected digest"),
        (garble_codes, "train genrec", "codes.parquet: expected digest"),
        (lose_generation, "evaluate", "semantic-ID generation '000009-deadbeef' is not in workspace"),
        (empty_items, "semantic-ids", "table 'clean_items' has no items: expected at least one"),
    ],
)
def test_one_message_and_exit_code_2(workspace, capsys, breakage, command, message):
    breakage(workspace)
    assert main([*command.split(), "--workspace", str(workspace.root)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown

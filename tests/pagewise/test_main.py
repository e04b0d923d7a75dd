from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pagewise import __version__
from pagewise.invocation import PRESETS, load_settings, parse, presets
from pagewise.main import VERBS, main
from pagewise.settings import Settings

pytestmark = pytest.mark.integration

HEAVY = {"torch", "torchrec", "apache_beam", "ray", "mlflow", "faiss", "sklearn", "scipy", "pandas", "redis", "fastapi"}
ARROW = {"pyarrow", "numpy"}
"""A quarter of a second: fine for a command that reads settings, too much for a list of commands."""


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules in memory after the command line ran in a process of its own."""
    code = (
        "import sys\nfrom pagewise.main import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("nonsense",)])
def test_help_loads_nothing_but_the_standard_library(arguments: tuple[str, ...]) -> None:
    assert loaded_by(*arguments) & (HEAVY | ARROW | {"yaml"}) == set()


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_a_verbs_help_loads_no_heavy_library(verb: str) -> None:
    assert loaded_by(verb, "--help") & HEAVY == set()


def test_settings_load_no_heavy_library(tmp_path: Path) -> None:
    assert loaded_by("validate", "--workspace", str(tmp_path), "genrec.nonsense=1") & HEAVY == set()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_is_in_the_help_and_has_its_own(verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert f"  {verb.name} " in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main([verb.name, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(option in shown for option in ("--workspace", "--config", "--preset", "--debug", "name=value"))
    assert ("--runner" in shown) == (
        verb.name in {"validate", "features", "sequences", "run", "recommend", "replay", "check-features"}
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pagewise {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulat"], "there is no command 'simulat'; did you mean 'simulate'?"),
        (["qqq"], "there is no command 'qqq'; `pagewise --help` lists them"),
        (["doctor", "genrec.layer=2"], "the nearest known name is 'genrec.layers'"),
        (["doctor", "--config", "nowhere.yaml"], "nowhere.yaml: expected a YAML file, there is none"),
        (["validate", "--workspace", "/dev/null/x"], "--workspace /dev/null/x: expected a folder, but /dev/null is a"),
        (["doctor", "--workspace", ""], "--workspace: expected a folder or a URI, got an empty text"),
        (["simulate", "simulate.users=0", "simulate.days=0"], "- simulate: days: expected at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_clean_message_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "--user", "3"], "unrecognized arguments: --user"),
        (["import", "--source", "x"], "the following arguments are required: NAME\n"),
        (["import", "s3rec"], "the following arguments are required: --source"),
        (["doctor", "--preset", "huge"], "invalid choice: 'huge' (choose from "),
        (["simulate", "--", "--parallelism=2"], "unexpected '--parallelism=2' after --"),
    ],
)
def test_a_wrong_flag_shows_the_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_crash(tmp_path: Path, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pagewise.main", "validate", "--workspace", str(tmp_path)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.endswith("pagewise validate: stopped, nobody reads its output any more\n")
    assert "BrokenPipe" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--debug", "--config", str(tmp_path / "nowhere.yaml")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_settings_are_printed_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--workspace", str(tmp_path), "seed=7", "batch.pages.cap=3"]) == 2  # there are no events
    assert "cap=3" in capsys.readouterr().out
    (saved,) = (tmp_path / "runs" / "commands").glob("validate-*.yaml")
    document = yaml.safe_load(saved.read_text())
    assert (document["seed"], document["batch"]["pages"]["cap"]) == (7, 3)


def test_passwords_are_neither_printed_nor_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = ["store.url=redis://ann:secret@cache:6379/0", "tracking.uri=https://ann:secret@tracking"]
    assert main(["serve", "--workspace", "memory://nowhere", *urls]) == 2
    assert main(["validate", "--workspace", str(tmp_path), *urls]) == 2  # there are no events
    assert "secret" not in "".join(capsys.readouterr())
    (saved,) = (tmp_path / "runs" / "commands").glob("validate-*.yaml")
    document = yaml.safe_load(saved.read_text())
    assert (document["store"]["url"], document["tracking"]["uri"]) == ("redis://cache:6379/0", "https://tracking")


@pytest.mark.parametrize("preset", presets())
def test_every_preset_builds(preset: str) -> None:
    from pagewise.configuration import build, from_file
    from pagewise.settings import Settings

    build(Settings, [from_file(PRESETS / f"{preset}.yaml", Settings)])


def test_there_are_presets_in_three_sizes() -> None:
    assert {"nano", "small", "prod"} <= set(presets())


def test_the_demo_is_nano_with_days_to_judge_by() -> None:
    def settings(verb: str, *arguments: str) -> Settings:
        command = importlib.import_module(f"pagewise.commands.{verb}")
        return load_settings(parse(verb, "", command, arguments))

    nano, demo = settings("run"), settings("demo")
    assert (nano.batch.split.test_days, demo.batch.split.test_days) == (2, 4)
    assert nano.recommend.temperature == 0
    assert demo.genrec == nano.genrec
    assert settings("run", "--preset", "demo") == demo
    assert settings("demo", "--preset", "nano") == nano


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS if verb.writes])
def test_who_writes_tables_waits_for_its_turn(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from features.workspace import Workspace
    from pipelines.jobs.lock import writing_tables

    more = {"train": ["ranker"], "import": ["s3rec", "--source", "x"]}.get(verb, [])
    with writing_tables(Workspace(tmp_path)):
        assert main([verb, *more, "--workspace", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"pagewise {verb}: process {os.getpid()} (since 20")
    assert "is running a job in this workspace" in message
    assert not (tmp_path / "tables").exists()


def test_verbs_that_write_tables_or_models() -> None:
    names = {verb.name for verb in VERBS if verb.writes}
    assert names == {"simulate", "import", "validate", "features", "semantic-ids", "sequences", "train", "align"}


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS if verb.reads])
def test_a_workspace_that_must_be_there_is_not_made(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"forget": ["ann"], "catalogue": ["show"], "train": ["ranker"]}.get(verb, [])
    assert main([verb, *more, "--workspace", str(tmp_path / "mistyped")]) == 2
    assert "mistyped: there is no such folder, and so nothing to work on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_verbs_that_work_on_what_is_there() -> None:
    without = {verb.name for verb in VERBS if not verb.reads}
    assert without == {"demo", "simulate", "import", "compare", "replay", "stream", "doctor"}


def test_a_study_of_a_workspace_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "ssl", "--workspace", str(tmp_path / "mistyped")]) == 2
    assert "mistyped: there is no such folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

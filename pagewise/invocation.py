"""What all commands share: their options, the resolved settings, printed and saved, and quiet libraries."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from pagewise import configuration
from pagewise.console import is_first_process
from pagewise.settings import Settings

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "nano"
_ON_TOP_OF = {"demo": "nano"}
"""Presets that hold only what they change of another one."""


class Command(Protocol):
    """What a module of `pagewise.commands` offers."""

    SECTIONS: tuple[str, ...]
    """Sections of the settings the command reads: printed and saved before it runs."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's own arguments."""
        ...

    def run(self, args: argparse.Namespace, settings: Settings) -> int:
        """Do the work and return the exit code."""
        ...


def presets() -> list[str]:
    """Return the names of the presets that come with Pagewise."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def parse(verb: str, help: str, command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a verb's arguments; what follows `--` lands in `args.beam_options`, `name=value` in `args.overrides`.

    An option whose `dest` is a setting's name (`replay.logs`) sets it, and is printed and saved with the others.
    """
    arguments = list(arguments)
    rest: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, rest = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(prog=f"pagewise {verb}", description=help, allow_abbrev=False)
    command.add_arguments(parser)
    _add_common_arguments(parser, preset=parser.get_default("preset") or DEFAULT_PRESET)
    args = parser.parse_intermixed_args(arguments)
    if rest and not hasattr(args, "runner"):
        parser.error(f"unexpected {' '.join(rest)!r} after --: only commands with --runner hand options on to Beam")
    named = {name: value for name, value in vars(args).items() if "." in name and value is not None}
    args.overrides = [*args.overrides, *(f"{name}={json.dumps(value)}" for name, value in named.items())]
    args.verb = verb
    args.beam_options = [f"--runner={args.runner}", *rest] if hasattr(args, "runner") else []
    return args


def add_beam_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--runner` to a command that runs Beam pipelines."""
    parser.add_argument(
        "--runner",
        default="FnApiRunner",
        metavar="NAME",
        help="Beam runner (default: FnApiRunner, in this process); its options follow after --",
    )


def _add_common_arguments(parser: argparse.ArgumentParser, preset: str) -> None:
    group = parser.add_argument_group("options of every command")
    group.add_argument("--workspace", default="./workspace", metavar="URI", help="where everything lies (%(default)s)")
    group.add_argument(
        "--preset",
        default=preset,
        choices=presets(),
        help="sizes to start from: %(choices)s (default: %(default)s)",
        metavar="NAME",
    )
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings that override the preset's")
    group.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' own messages")
    group.add_argument(
        "overrides", nargs="*", default=[], metavar="name=value", help="one setting, for example genrec.layers=2"
    )


def check_workspace(uri: str, *, must_exist: bool = False) -> None:
    """Refuse a place where no workspace can be, or, where there must be one, is none.

    Raises:
        ValueError: Nothing is named, or a file lies there.
        FileNotFoundError: There is no such folder.
    """
    if not uri:
        raise ValueError("--workspace: expected a folder or a URI, got an empty text; is the variable behind it set?")
    if "://" in uri:
        return
    file = next((path for path in (Path(uri), *Path(uri).parents) if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise ValueError(f"--workspace {uri}: expected a folder, but {file} is a file; name another place, or move it")
    if must_exist and not Path(uri).is_dir():
        raise FileNotFoundError(
            f"--workspace {uri}: there is no such folder, and so nothing to work on; name the one that holds your "
            "tables, or make one: `pagewise demo`, `pagewise simulate` or `pagewise import`"
        )


def load_settings(args: argparse.Namespace) -> Settings:
    """Merge preset, file and overrides, in this order.

    Raises:
        ConfigurationError: All mistakes of all sources.
    """
    names = [_ON_TOP_OF[args.preset], args.preset] if args.preset in _ON_TOP_OF else [args.preset]
    sources = [configuration.from_file(PRESETS / f"{name}.yaml", Settings) for name in names]
    if args.config is not None:
        sources.append(configuration.from_file(args.config, Settings))
    sources.append(configuration.from_overrides(args.overrides))
    return configuration.build(Settings, sources)


def announce(args: argparse.Namespace, settings: Settings, sections: Sequence[str]) -> None:
    """Print the sections a command reads and save the whole configuration in the workspace, without passwords."""
    if not sections or not is_first_process():
        return
    from features.secrets import without_passwords
    from features.workspace import Workspace

    document = configuration.to_document(settings)
    text = without_passwords(yaml.safe_dump(document, sort_keys=False, width=1_000_000))
    name = f"{args.verb}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    workspace = Workspace(args.workspace)
    workspace.write_bytes(text.encode(), "runs", "commands", name)
    print(f"preset {args.preset}, seed {settings.seed}; all settings: {workspace.path('runs', 'commands', name)}")
    for section in sections:
        print(without_passwords("\n".join(f"  {line}" for line in _compact(section, document[section]))))


def _compact(name: str, section: dict[str, Any]) -> list[str]:
    """Return `section: a=1 b=2` and one such line for each section inside."""
    inside = {key: value for key, value in section.items() if isinstance(value, dict) and value}
    values = [f"{key}={json.dumps(value)}" for key, value in section.items() if key not in inside]
    lines = [f"{name}: {' '.join(values)}"] if values else []
    return lines + [line for key, value in inside.items() for line in _compact(f"{name}.{key}", value)]


@contextlib.contextmanager
def turn(args: argparse.Namespace) -> Iterator[None]:
    """Wait for nobody: hold the workspace's lock while a command writes tables or models, or say who holds it.

    Of the processes of one training the first holds it for all.

    Raises:
        LockedError: A daily job or another such command is running.
    """
    if not is_first_process():
        yield
        return
    from features.workspace import Workspace
    from pipelines.jobs.lock import writing_tables

    with writing_tables(Workspace(args.workspace)):
        yield


def quieten_libraries(debug: bool) -> None:
    """Silence what libraries say about themselves, unless `--debug` asks for it; must run before they are imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if debug:
        return
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    for library in ("apache_beam", "alembic", "mlflow", "matplotlib", "torchrec", "root"):
        logging.getLogger(None if library == "root" else library).setLevel(logging.ERROR)

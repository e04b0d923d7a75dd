"""The checks behind `pagewise doctor`: each yields a finding, and what to do when it is a bad one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pagewise.settings import Settings

GIB = 1 << 30
MINIMUM_DISK_GIB = 5.0
MINIMUM_MEMORY_GIB = 4.0
PROBE_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Check:
    """A check: returns what it found, raises `RuntimeError` when that is not good enough."""

    name: str
    examine: Callable[[], str]
    mend: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    ok: bool
    detail: str
    mend: str


def checks(workspace: str, settings: Settings) -> list[Check]:
    """Return all checks for this machine, workspace and settings, in the order they are run."""
    install = "run `make setup`; infra/requirements/README.md tells which versions fit each other"
    folder = nearest_folder(workspace)
    port = settings.serve.port
    redis_url = settings.store.url
    return [
        Check("python", python_version, "install Python 3.11 and run `make setup PYTHON=/path/to/python3.11`"),
        Check("torch", lambda: probe("torch"), install),
        Check("beam", lambda: probe("beam"), install),
        Check("mlflow", lambda: probe("mlflow"), install),
        Check(
            "redis",
            lambda: probe("redis", {"PAGEWISE_PROBE_REDIS": redis_url} if redis_url else {}),
            "start the server, or correct store.url" if redis_url else install,
        ),
        Check("ray", lambda: probe("ray"), f"{install}; `ray stop` ends processes of an earlier crash"),
        Check("disk", lambda: free_disk(folder), "free some space, or put --workspace on another disk"),
        Check("memory", free_memory, "end other programs, or take a smaller preset"),
        Check(
            "port", lambda: free_port(port), f"stop what listens on {port}, or serve elsewhere: serve.port={port + 1}"
        ),
    ]


def examine(check: Check) -> Finding:
    """Run one check; what it raises becomes the finding."""
    try:
        return Finding(check.name, True, check.examine(), check.mend)
    except RuntimeError as error:
        return Finding(check.name, False, str(error), check.mend)


def python_version() -> str:
    """Check the interpreter: the pinned wheels are those of Python 3.11."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        raise RuntimeError(f"expected Python 3.11, this is {version} ({sys.executable})")
    return f"Python {version}, {os.cpu_count()} cores"


def probe(name: str, environment: dict[str, str] | None = None) -> str:
    """Run a probe of `pagewise.probes` in a process of its own, so that a crash or a hang is a finding too."""
    command = [sys.executable, "-m", "pagewise.probes", name]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {PROBE_SECONDS} s") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"{words} (exit code {done.returncode})")
    return done.stdout.strip().splitlines()[-1]


def nearest_folder(workspace: str) -> Path:
    """Return the existing folder the workspace lies or will lie in; this folder for a remote workspace."""
    path = Path("." if "://" in workspace else workspace).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def free_disk(folder: Path) -> str:
    """Measure the disk: the demo takes far less than a gigabyte, checkpoints of a real data set more."""
    gib = shutil.disk_usage(folder).free / GIB
    if gib < MINIMUM_DISK_GIB:
        raise RuntimeError(f"{gib:.1f} GiB free at {folder}, expected at least {MINIMUM_DISK_GIB:.0f}")
    return f"{gib:.0f} GiB free at {folder}"


def free_memory() -> str:
    """Measure the memory: Ray and torch together need a few gigabytes."""
    import psutil

    gib = psutil.virtual_memory().available / GIB
    if gib < MINIMUM_MEMORY_GIB:
        raise RuntimeError(f"{gib:.1f} GiB of memory available, expected at least {MINIMUM_MEMORY_GIB:.0f}")
    return f"{gib:.1f} GiB available"


def free_port(port: int) -> str:
    """See whether the server's port is free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise RuntimeError(f"port {port} is taken: {error.strerror}") from error
    return f"port {port} is free"

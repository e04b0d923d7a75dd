"""Lines on the terminal: lasting ones, and a status line that is overwritten where there is a terminal."""

from __future__ import annotations

import os
import shutil
import sys

CLEAR = "\r\x1b[2K"


def is_first_process() -> bool:
    """Whether this is the process that speaks: the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


class Console:
    """Prints `say` lines for good and `progress` lines over each other; without a terminal both are plain lines."""

    def __init__(self) -> None:
        self._on_terminal = sys.stdout.isatty()
        self._speaks = is_first_process()

    def say(self, *lines: str) -> None:
        """Print lines that stay."""
        if not self._speaks:
            return
        for line in lines:
            print(f"{CLEAR if self._on_terminal else ''}{line}", flush=True)

    def progress(self, line: str) -> None:
        """Show what a long run is doing; the next line takes its place."""
        if not self._speaks:
            return
        if not self._on_terminal:
            print(f"  {line}", flush=True)
            return
        width = shutil.get_terminal_size().columns
        print(f"{CLEAR}{line[: width - 1]}", end="", flush=True)

"""Draining: the service takes nothing new, and what is in flight ends. A file that all processes of the node see."""

from __future__ import annotations

from pathlib import Path


class Drain:
    """Whether the service drains; there is no way back but a restart.

    Args:
        folder: The service's own folder, which all its processes share.
    """

    def __init__(self, folder: Path) -> None:
        self._flag = folder / "draining"

    def begin(self) -> None:
        """Drain from now on; repeating it is harmless."""
        self._flag.touch()

    def __bool__(self) -> bool:
        return self._flag.exists()

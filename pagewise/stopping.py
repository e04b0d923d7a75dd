"""SIGTERM and Ctrl-C as exceptions of the main thread, also where a library makes another error of one or loses it."""

from __future__ import annotations

import signal
import sys
import threading
from types import TracebackType
from typing import Any, Self

AGAIN_S = 1.0
"""A `Terminated` that something caught and dropped is raised anew after so long."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever cleans up after Ctrl-C does so after it, too."""


class Stopping:
    """While it is entered, SIGTERM raises `Terminated`; what sets a handler of its own, as `serve`, is left alone.

    Attributes:
        came: The signal that came last, None for none: an error since then is most likely its consequence.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._over = threading.Event()
        self._reminder: threading.Thread | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._reminder is not None:
            self._reminder.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        if self._over.is_set():
            return
        self.came = signal.Signals(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._reminder is None:
            self._reminder = threading.Thread(target=self._remind, args=[threading.get_ident()], daemon=True)
            self._reminder.start()
        if not _on_its_way():  # nothing cuts off the cleaning up
            raise Terminated

    def _remind(self, main_thread: int) -> None:
        while not self._over.wait(AGAIN_S):
            signal.pthread_kill(main_thread, signal.SIGTERM)


def _on_its_way() -> bool:
    """Return whether the code that was interrupted is cleaning up after a `Terminated`."""
    error = sys.exception()
    while error is not None and not isinstance(error, Terminated):
        error = error.__context__
    return error is not None

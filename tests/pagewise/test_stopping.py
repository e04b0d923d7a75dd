"""SIGTERM while a verb runs."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from pagewise import stopping
from pagewise.main import main

WAIT_S = 60.0


@pytest.fixture
def python_handlers() -> Iterator[None]:
    """Those of a new process: libraries that other tests ran in this one may have left their own."""
    new = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in new.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@pytest.fixture
def ended(
    python_handlers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs something as a verb; returns exit code and what it said."""

    def run(work: Callable[[], object]) -> tuple[int, str]:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        monkeypatch.setattr("pagewise.commands.doctor.run", lambda *_: work() or 0)
        code = main(["doctor"])
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        return code, capsys.readouterr().err

    return run


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


STOPPED = (143, "\npagewise doctor: stopped by SIGTERM; the same command goes on from what is complete\n")


def test_sigterm_ends_like_ctrl_c(ended) -> None:
    assert ended(terminate) == STOPPED
    code, said = ended(lambda: signal.raise_signal(signal.SIGINT))
    assert (code, said.split(";")[0]) == (130, "\npagewise doctor: interrupted")


def test_cleaning_up_is_not_cut_off_by_a_second_one(ended) -> None:
    cleaned = []

    def work() -> None:
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(cleaned.append, "last")
            cleanup.callback(terminate)
            try:
                terminate()
            finally:
                terminate()
                cleaned.append("first")

    assert ended(work) == STOPPED
    assert cleaned == ["first", "last"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_error_that_a_library_makes_of_it_is_no_failure(ended, number: signal.Signals) -> None:
    def work() -> None:
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise RuntimeError(f"{error!r} while running") from None

    assert ended(work)[0] == 128 + number


def test_what_was_dropped_comes_again(ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "AGAIN_S", 0.01)

    def work() -> None:
        with contextlib.suppress(BaseException):
            terminate()
        threading.Event().wait(WAIT_S)

    assert ended(work) == STOPPED


def test_what_handles_it_itself_does(ended) -> None:
    came = threading.Event()

    def work() -> None:
        signal.signal(signal.SIGTERM, lambda *_: came.set())
        terminate()

    assert ended(work) == (0, "")
    assert came.is_set()


def test_ray_ends_the_process_its_own_way(ended) -> None:
    def work() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        terminate()

    assert ended(work) == STOPPED


def test_another_thread_sets_no_handlers(ended) -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]

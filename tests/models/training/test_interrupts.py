"""Ctrl-C waits for the end of a step; where the process was started deaf to it, it stays so."""

import os
import signal

import pytest

from models.training.interrupts import deferred_interrupt


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_waits_and_the_second_does_not(handler):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with deferred_interrupt() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_ignores_it_goes_on_ignoring_it(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupt() as received:
        os.kill(os.getpid(), signal.SIGINT)
    assert received == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

"""A slow store slows the source: what waits is refused at some point, and no range holds more than it may."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import stream_world as world
from stream_world import START, event

from features.stream.base import EventStream, StreamFullError
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import EVENTS, StreamRecord
from pipelines.streaming import transforms
from pipelines.streaming.folding import fold_user_shard
from pipelines.streaming.log import Range

pytestmark = pytest.mark.integration
MOST, ROWS, PER_MESSAGE = 40, 10, 3


def test_a_slow_store_slows_the_source_and_ranges_stay_small(tmp_path, redis_url, monkeypatch) -> None:
    answers, ranges = threading.Event(), list[Range]()

    def slow(*arguments: Any) -> Any:
        assert answers.wait(120)
        return fold_user_shard(*arguments)

    def done(taken: Range, _: object) -> None:
        ranges.append(taken)

    monkeypatch.setattr(transforms, "fold_user_shard", slow)
    options: dict[str, Any] = {"max_messages": MOST, "range_rows": ROWS, "progress": done}
    with open_stream(StreamConfig(max_messages=MOST), redis_url, "slow", 20.0) as stream:
        stream.append([message(0)])
        pipeline = threading.Thread(target=world.take_up, args=(tmp_path, redis_url, "slow"), kwargs=options)
        pipeline.start()
        with pytest.raises(StreamFullError, match=f"holds {MOST} messages that nobody has read yet"):
            append_until_refused(stream)
        assert stream.backlog(0) == MOST
        answers.set()
        pipeline.join(120)
        assert stream.backlog(ranges[-1].last) == 0
    rows = [taken.counts["events.in"] for taken in ranges]
    assert sum(rows) == MOST * PER_MESSAGE == world.counts(tmp_path)["events.logged"]
    assert max(rows) <= ROWS + PER_MESSAGE - 1


def append_until_refused(stream: EventStream) -> None:
    for number in itertools.count(1):
        stream.append([message(number)])


def message(number: int) -> StreamRecord:
    times = range(START + PER_MESSAGE * number, START + PER_MESSAGE * (number + 1))
    return StreamRecord.of_rows(EVENTS, [event("ann", f"item{number}", "click", time) for time in times])

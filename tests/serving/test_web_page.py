"""The web page in a real Chromium, on a real release, Redis, event stream and streaming pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "recommend"))

import pyarrow as pa
from chromium import Tab, chromium, find_chromium
from release_cases import commit, make_genrec, make_release, make_workspace

from features.schemas import EVENT_LOG, ITEMS
from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.workspace import Workspace
from pipelines.batch.config import PagesConfig
from pipelines.streaming.log import committed_log
from pipelines.streaming.run import run_stream
from serving.access import new_key
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.gate import Gate, GateSettings
from serving.routes import build_api

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: install Debian's package `chromium`"),
]
EVIL = "<img src=x onerror=\"document.title='taken over'\"> & <b>kite</b>"
STREAM = StreamConfig(interval_s=0.05)


def named_evil(workspace: Workspace, item_id: str) -> None:
    """Give an item a title that does harm where it is taken for HTML."""
    rows = workspace.table("clean_items").read().to_pylist()
    titled = [{**row, "title": EVIL} if row["item_id"] == item_id else row for row in rows]
    commit(workspace, "clean_items", pa.Table.from_pylist(titled, schema=ITEMS))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, StoreConfig]]:
    """A workspace with a release, and Redis with its streaming pipeline."""
    root = tmp_path_factory.mktemp("web")
    workspace = make_workspace(root / "workspace")
    named_evil(workspace, "i04")
    make_release(workspace.local_path("releases"), workspace, make_genrec(workspace), epsilon=0.0, page_size=3)
    stopping, ready = threading.Event(), threading.Event()
    with EmbeddedRedis(root / "redis") as redis:
        config = StoreConfig(url=redis.url)
        with RedisStore(redis.url, config) as store:
            backfill(workspace, store, config)
        folding = threading.Thread(
            target=run_stream,
            args=(workspace, STREAM, config, PagesConfig()),
            kwargs={"stopping": stopping, "ready": lambda running: ready.set()},
        )
        folding.start()
        assert ready.wait(60)
        yield workspace, config
        stopping.set()
        folding.join()


@contextlib.contextmanager
def served(app: Callable) -> Iterator[str]:
    """Run an ASGI application and yield its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def api(running: tuple[Workspace, StoreConfig]) -> Callable:
    workspace, config = running
    (manifest,) = workspace.local_path("releases").glob("*/manifest.json")
    return build_api(make_backend(manifest.parent, config.url, config, STREAM, ServeConfig(request_timeout_s=10)))


@pytest.fixture(scope="module")
def url(api: Callable) -> Iterator[str]:
    with served(api) as address:
        yield address


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with chromium(PROGRAM, tmp_path / "profile") as opened:
        yield opened


def shown(tab: Tab) -> list[str]:
    """Ids of the items on the screen."""
    return tab.evaluate("[...document.querySelectorAll('#items > li')].map((one) => one.dataset.item)")


def settle(tab: Tab, said: str) -> None:
    """Wait until the page says something and has nothing under way."""
    tab.wait_for(
        f"document.getElementById('status').innerText.includes({said!r}) && "
        "document.getElementById('page').getAttribute('aria-busy') === 'false' && "
        "![...document.querySelectorAll('#items button')].some((button) => button.disabled)"
    )


def ask_for(tab: Tab, user: str) -> None:
    tab.fill("#user", user)
    tab.click("#ask button.main")
    settle(tab, f"for {user}.")


def test_a_click_goes_through_the_stream_and_changes_the_next_page(tab, url, running):
    tab.open(url)
    tab.wait_for("document.querySelectorAll('#examples button').length === 8")
    ask_for(tab, "u1")
    before = shown(tab)
    assert len(before) == 3
    assert re.search(r"from (genrec|transitions|popular), score \d", tab.text("#items > li"))
    assert len(tab.texts("#items > li:first-child .parts meter")) == 3
    assert len(tab.texts("#history li")) == 5
    tab.click("#items > li:nth-child(2) [data-act=click]")
    settle(tab, "The click was in the history after")
    assert tab.text("#history li").startswith("click · ")
    assert before[1] in tab.text("#history li")
    assert before[1] not in shown(tab)
    assert "the page changed: 1 new" in tab.text("#status")
    logged = committed_log(running[0]).dataset(running[0], EVENT_LOG).to_table().to_pylist()
    (click,) = (row for row in logged if row["event"] == "click")
    assert (click["user_id"], click["item_id"], click["position"]) == ("u1", before[1], 1)
    assert click["request_id"] in {row["request_id"] for row in logged if row["event"] == "impression"}
    assert click["session_id"].startswith("web-")
    assert tab.texts("#items .mark")
    tab.wait_for("document.getElementById('figures').innerText.includes('Events accepted')")
    assert tab.complaints == []


def test_pages_of_one_list_never_repeat_and_it_ends(tab, url):
    tab.open(f"{url}/?user=u2")
    settle(tab, "for u2.")
    places = 3
    while tab.evaluate("!document.getElementById('more').hidden"):
        tab.click("#more")
        settle(tab, "more items.")
        assert len(shown(tab)) >= places
        places = len(shown(tab))
    assert len(set(shown(tab))) == places == 7  # 12 items, 5 of them in the history
    assert [title.split(".")[0] for title in tab.texts("#items h3")] == [str(place + 1) for place in range(places)]


def test_titles_and_users_are_text_whatever_they_hold(tab, url):
    tab.open(url)
    tab.click("#filters summary")
    tab.fill("#page_size", "12")
    ask_for(tab, EVIL)
    assert any(EVIL in title for title in tab.texts("#items h3"))
    assert tab.evaluate("document.title") == "Pagewise"
    assert tab.evaluate("document.querySelectorAll('img, b').length") == 0
    assert "Nothing is known of this user" in tab.text("#freshness")
    assert tab.complaints == []


def test_filters_hold_and_errors_are_told_as_they_come(tab, url):
    tab.open(url)
    tab.click("#filters summary")
    tab.fill("#category", "aisle1")
    tab.fill("#max_price", "8.5")
    ask_for(tab, "u0")
    assert shown(tab)
    assert set(shown(tab)) <= {"i01", "i03", "i05", "i07"}  # item n costs 1 + n and is in aisle n % 2
    tab.fill("#page_size", "51")
    tab.click("#ask button.main")
    tab.wait_for("!document.getElementById('problem').hidden")
    assert tab.text("#problem") == "422 invalid_request: page_size: expected 1 to 50, got 51."


def test_everything_works_from_the_keyboard(tab, url):
    tab.open(url)
    tab.wait_for("document.querySelectorAll('#examples button').length === 8")
    tab.evaluate("document.getElementById('user').focus()")
    tab.call("Input.insertText", text="keyboard")
    tab.press("Enter")
    settle(tab, "for keyboard.")
    for _ in range(30):
        tab.press("Tab")
        if tab.evaluate("document.activeElement.dataset.act === 'dislike'"):
            break
    item = tab.evaluate("document.activeElement.closest('li').dataset.item")
    tab.press("Enter")
    settle(tab, "The dislike was in the history after")
    assert item not in shown(tab)
    assert tab.evaluate("document.activeElement.id") == "page-heading"


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 900)])
def test_nobody_need_scroll_sideways_or_aim_well(tab, url, width, height):
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
    tab.open(f"{url}/?user=u3")
    settle(tab, "for u3.")
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    visible = "[...document.querySelectorAll('button, input')].filter((one) => one.offsetParent)"
    assert min(tab.evaluate(f"{visible}.map((one) => one.offsetHeight)")) >= 44


def test_where_a_key_is_needed_the_page_asks_for_it(tab, api, tmp_path):
    key, line = new_key("shop")
    (tmp_path / "keys").write_text(line)
    gate = Gate(api, GateSettings(serve=ServeConfig(keys_file=str(tmp_path / "keys")), folder=tmp_path))
    with served(gate) as locked:
        tab.open(locked)
        tab.wait_for("!document.getElementById('access').hidden")
        tab.wait_for("document.getElementById('problem').textContent.includes('401 unauthorized')")
        tab.fill("#key", key)
        tab.press("Enter")
        tab.wait_for("document.querySelectorAll('#examples button').length === 8")
        assert not tab.evaluate("!document.getElementById('access').hidden")

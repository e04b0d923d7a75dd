"""What all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Read by Triton when the first of all tests imports it: without a GPU its kernels run in its interpreter.
if not Path("/proc/driver/nvidia").exists():
    os.environ["TRITON_INTERPRET"] = "1"


# Nothing that is imported for the tests is garbage: looking for it there, again and again, takes a tenth of their time.
gc.disable()
# A stream thaws at its end what it froze at its start, and all of that with it.
gc.unfreeze = lambda: None

# A shell that starts something in the background (`make test &`) lets it ignore SIGINT, and Python keeps to that; tests
# of what Ctrl-C does raise it in their own process.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave all that is there now out of the search for garbage, which begins with the tests; it comes seldom."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that two processes end together."""
    items.sort(
        key=lambda item: ("tests/integration" not in item.nodeid, item.get_closest_marker("integration") is None)
    )


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds the packages, the documents and the Makefile."""
    return ROOT


@pytest.fixture(scope="session")
def smallest_models() -> str:
    """Settings, as YAML, of models that train in a second."""
    return (ROOT / "tests" / "smallest_models.yaml").read_text()


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where MLflow's tables are kept once they have been made."""
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture(scope="module", autouse=True)
def mlflow_stores(mlflow_template: Path) -> Iterator[None]:
    """Make MLflow's tables once, which takes seconds, and copy them into every workspace."""
    from models.training import tracking

    make = tracking._make_store

    def copy(path: Path) -> None:
        if path.exists():
            return
        make(mlflow_template)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mlflow_template, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_make_store", copy)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets named by PAGEWISE_DATA; the test is skipped where there is none."""
    folder = os.environ.get("PAGEWISE_DATA")
    if not folder:
        pytest.skip("PAGEWISE_DATA is not set")
    if not Path(folder).is_dir():
        pytest.skip(f"PAGEWISE_DATA={folder} is no folder")
    return Path(folder).absolute()


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[str]:
    """Kafka as librdkafka plays it, inside one client; others reach it over TCP. It makes four partitions per topic."""
    kafka = pytest.importorskip("confluent_kafka", reason="needs pip install -r infra/requirements/kafka.txt")
    owner = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
    (found,) = owner.list_topics(timeout=30).brokers.values()
    yield f"{found.host}:{found.port}"
    owner.flush(0)  # until here it must live: the broker goes with it

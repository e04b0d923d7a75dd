"""The log of a workspace goes on from the source that it was begun with."""

import pytest

from features.stream.config import StreamConfig
from features.workspace import Workspace
from pipelines.streaming.ranges import RangeLog
from pipelines.streaming.source import require_source


def test_another_source_is_refused_once_there_is_a_log(tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    (tmp_path / "arriving").mkdir()
    folder = StreamConfig(source="directory", folder=str(tmp_path / "arriving"))
    require_source(workspace, folder)
    require_source(workspace, StreamConfig())  # nothing was taken up yet
    log = RangeLog(workspace)
    log.open(1, 2)
    log.finish([], {}, 0)
    require_source(workspace, StreamConfig())
    with pytest.raises(ValueError, match=r"is taken from 'redis', got 'directory .*arriving'; what waits in"):
        require_source(workspace, folder)
    with pytest.raises(ValueError, match=r"is taken from 'redis', got 'kafka shop'; what waits in"):
        require_source(workspace, StreamConfig(source="kafka", servers="h:9092", topic="shop"))


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"expected the folder that events arrive in, got '.*nowhere'"):
        require_source(Workspace(tmp_path), StreamConfig(source="directory", folder=str(tmp_path / "nowhere")))

"""What makes the job's data stages run again."""

from __future__ import annotations

from features.workspace import Workspace
from pipelines.jobs.inputs import StageInputs
from pipelines.streaming.log import Range, range_file, write_durably


def test_the_log_of_the_stream_is_an_input(tmp_path):
    workspace = Workspace(tmp_path)
    inputs = StageInputs(workspace)
    assert inputs.raw_tables() == {}
    for last, done in ((10, True), (20, False)):
        taken = Range(first=last - 9, last=last, opened=0, watermark=0, done=done)
        write_durably(workspace, range_file(workspace, last), taken.to_json())
    assert inputs.raw_tables() == inputs.stream() == {"stream": "10"}
    assert StageInputs(workspace, stream_log=False).raw_tables() == {}

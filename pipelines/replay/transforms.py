"""Files of logged pages -> sums, the Beam side: pages are judged file by file and added up where they were judged.

What travels between workers are sums, a few MB each, never pages.
"""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from pipelines.replay.logs import IDS_AT_ONCE, LoggedPages, Rows, repeated_pages


class Repeated(beam.PTransform):
    """Logs -> (file, rows of it) with pages that came before, part of all ids by part.

    Args:
        logs: The pages.
    """

    def __init__(self, logs: LoggedPages) -> None:
        super().__init__()
        self.logs = logs

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Look at the ids of all files once for each part."""
        parts = -(-self.logs.rows // IDS_AT_ONCE)
        return start | "parts" >> beam.Create(range(parts)) | "find" >> beam.FlatMap(_repeated, self.logs, parts)


def _repeated(part: int, logs: LoggedPages, parts: int) -> Iterator[tuple[str, Rows]]:
    yield from repeated_pages(logs, part, parts).items()

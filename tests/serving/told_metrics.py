"""What a service tells of itself at `/metrics`."""

from __future__ import annotations

import re

import httpx


def total(client: httpx.Client, metric: str) -> float:
    """The sum of a metric over its labels, or the value of one with given labels."""
    found = re.findall(rf"^{metric}(?:{{[^}}]*}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))

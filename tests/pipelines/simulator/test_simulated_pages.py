"""The simulator's log of the pages it served: what replay needs to know of the logging policy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.schemas import IMPRESSION, SERVED_PAGES
from features.workspace import Workspace
from models.recommend.policy import Policy
from pipelines.batch.checks import check_rows
from pipelines.batch.raw import RawBatch
from pipelines.simulator.job import SimulationReport

Simulated = tuple[Workspace, SimulationReport]


def test_every_page_is_logged_as_its_events_tell_and_none_is_refused(simulated: Simulated) -> None:
    workspace, report = simulated
    served = workspace.table("served_pages").read()
    assert served.schema == SERVED_PAGES
    assert served.num_rows == report.pages
    checked = check_rows("served_pages", RawBatch(served, [], "simulated"))
    assert checked.dead.to_pylist() == []
    shown: dict[str, dict[int, tuple[str, float]]] = {}
    for row in workspace.table("events").read().to_pylist():
        if row["event"] == IMPRESSION:
            page = shown.setdefault(row["request_id"], {})
            page[row["position"]] = (row["item_id"], row["propensity"])
    for row in served.to_pylist():
        logged = list(zip(row["items"], row["propensities"], strict=True))
        assert logged == [shown[row["request_id"]][slot] for slot in range(len(logged))]


def test_the_logged_scores_and_parameters_give_the_logged_propensities(simulated: Simulated) -> None:
    """Scores are logged as float32: off by up to 2**-24 of themselves, and so is the log of a probability, twice."""
    served: list[dict[str, object]] = simulated[0].table("served_pages").read().to_pylist()
    width = max(len(row["candidates"]) for row in served)
    assert min(len(row["candidates"]) for row in served) < width, "repeated candidates do not count"
    scores_BK = np.zeros((len(served), width))
    eligible_BK = np.zeros(scores_BK.shape, dtype=bool)
    choice_BP = np.empty((len(served), 5), dtype=np.int64)
    for number, row in enumerate(served):
        candidates = row["candidates"]
        scores_BK[number, : len(candidates)] = row["candidate_scores"]
        eligible_BK[number, : len(candidates)] = True
        choice_BP[number] = [candidates.index(item) for item in row["items"]]
    [(epsilon, temperature)] = {(row["epsilon"], row["temperature"]) for row in served}
    policy = Policy(epsilon=epsilon, temperature=temperature)
    found_BP = np.exp(policy.log_prob(scores_BK, eligible_BK, choice_BP))
    logged_BP = np.array([row["propensities"] for row in served])
    np.testing.assert_allclose(found_BP, logged_BP, rtol=1e-6)
    scores_BP = np.take_along_axis(scores_BK, choice_BP, axis=1)
    assert pa.array([row["scores"] for row in served]).to_pylist() == scores_BP.tolist()

"""Putting releases into service on a running Ray: first their stages, then what makes pages, then the old stages go.

The stages of a release are Serve applications of their own, named after it. So those of the old release answer as long
as a page is made with it, and a release is swapped without a page that lacks a part.
"""

from __future__ import annotations

import dataclasses
import logging
import time

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig, ReplicaState

from serving.app import DEPLOYMENT, Served, build_application, build_stages

APPLICATION = "pagewise"
_LOOK_S = 0.1

_log = logging.getLogger(__name__)


class ServiceError(ValueError):
    """The service did not start."""


def deploy(served: Served) -> None:
    """Serve this from now on, and what was served before until it is there.

    Raises:
        ServiceError: It cannot be loaded; what was served before stays.
    """
    before = _stages_running()
    try:
        served, handles = _with_stages(served, before)
        _run(build_application(served, handles), APPLICATION, DEPLOYMENT, f"release {served.release}")
    except ServiceError:
        _delete(_stages_running() - before)
        raise
    old = before - handles.keys()
    if old:
        _await_last_pages(served.serve.request_timeout_s)
        _delete(old)


def undeploy() -> None:
    """End the service: what makes pages first, so that none lacks its stages."""
    if APPLICATION in serve.status().applications:
        serve.delete(APPLICATION)
    _delete(_stages_running())


def quiet() -> LoggingConfig:
    """Return how Serve logs: warnings, and no line per request."""
    return LoggingConfig(log_level="WARNING", enable_access_log=False)


def _with_stages(served: Served, running: set[str]) -> tuple[Served, dict[str, DeploymentHandle]]:
    """Start the stages that do not run yet; a challenger whose stages do not start is left out."""
    alone = dataclasses.replace(served, challenger=None)
    handles = _started(alone, running)
    if served.challenger is None:
        return served, handles
    try:
        return served, handles | _started(served, running | handles.keys())
    except ServiceError:
        _log.exception("challenger %s cannot be served; everybody gets the champion", served.challenger)
        _delete(_stages_running() - running - handles.keys())
        return alone, handles


def _started(served: Served, running: set[str]) -> dict[str, DeploymentHandle]:
    return {
        name: serve.get_app_handle(name) if name in running else _run(stage, name, name, name)
        for name, stage in build_stages(served).items()
    }


def _run(application: serve.Application, name: str, deployment: str, what: str) -> DeploymentHandle:
    try:
        route = "/" if name == APPLICATION else None
        return serve.run(application, name=name, route_prefix=route, logging_config=quiet())
    except RuntimeError as error:
        status = serve.status().applications[name].deployments.get(deployment)
        reason = str(error) if status is None else status.message.strip().splitlines()[-1]
        advice = "; `pagewise rollback` goes back to the champion before it" if name == APPLICATION else ""
        raise ServiceError(f"{what} could not be served: {reason}{advice}") from error


def _stages_running() -> set[str]:
    return {*serve.status().applications} - {APPLICATION}


def _await_last_pages(longest_s: float) -> None:
    """Wait until what made pages before has ended."""
    ends = time.monotonic() + longest_s
    while time.monotonic() < ends:
        states = serve.status().applications[APPLICATION].deployments[DEPLOYMENT].replica_states
        if not any(count for state, count in states.items() if state != ReplicaState.RUNNING):
            return
        time.sleep(_LOOK_S)


def _delete(names: set[str]) -> None:
    for name in names:
        serve.delete(name)

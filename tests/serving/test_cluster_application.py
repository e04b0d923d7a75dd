"""The application that Ray Serve's config files name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.registry import Registry
from serving.cluster import ClusterArguments, application

REDIS = {"url": "redis://127.0.0.1:6379/0"}


def arguments(folder: Path, uri: str = "sqlite://", **changed) -> ClusterArguments:
    return ClusterArguments.model_validate(
        {"workspace": folder, "folder": folder, "tracking_uri": uri, "store": REDIS, **changed}
    )


@pytest.mark.integration
def test_it_serves_what_the_alias_names(workspace, release_folder):
    registry = Registry(workspace)
    registry.register(release_folder)
    found = application(
        arguments(Path(workspace.root), registry.uri, alias="challenger", serve={"replicas": 3, "max_batch": 64})
    )
    served, stages = found._bound_deployment.init_args
    assert served.release.samefile(release_folder)
    assert (served.arm, served.store_url, served.serve.max_batch) == ("challenger", REDIS["url"], 64)
    assert found._bound_deployment.num_replicas == 3
    assert stages == {}


def test_nodes_of_a_cluster_share_a_redis(tmp_path):
    with pytest.raises(ValueError, match=r"store\.url: expected the URL of a Redis that all nodes reach, got none"):
        application(arguments(tmp_path, store={}))


def test_unknown_arguments_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="replicas"):
        arguments(tmp_path, replicas=3)

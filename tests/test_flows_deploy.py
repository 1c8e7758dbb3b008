"""Work pool of a deployment: the GPU pool if the deployment requests a GPU and the pool exists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from graft.flows.deploy import DeploymentSpec, deploy, read_deployments
from graft.flows.prefect_api import connected

FLOW = """
from prefect import flow

@flow
def tiny(word: str = "hello") -> str:
    return word
"""


@pytest.fixture(scope="module")
def server(prefect_url: str) -> Iterator[str]:
    """The session's server with the pool `graft`; the pools that a test makes are gone afterwards."""
    with connected(prefect_url), get_client(sync_client=True) as client:
        before = {pool.name for pool in client.read_work_pools()}
        if "graft" not in before:
            client.create_work_pool(WorkPoolCreate(name="graft", type="process"))
        yield prefect_url
        for pool in client.read_work_pools():
            if pool.name not in before:
                client.delete_work_pool(pool.name)


def pools(server: str, root: Path) -> dict[str, str | None]:
    """Deploys one flow that requests a GPU and one that does not: name to work pool."""
    specs = [DeploymentSpec("tiny_flow.py:tiny", name, tags=tags, root=root) for name, tags in TAGS.items()]
    deploy(server, specs)
    with get_client(sync_client=True) as client:
        return {name: client.read_deployment_by_name(f"tiny/{name}").work_pool_name for name in TAGS}


TAGS: dict[str, tuple[str, ...]] = {"trains": ("graft", "gpu"), "writes": ("graft",)}


def test_a_gpu_deployment_goes_to_the_gpu_pool_if_there_is_one(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_flow.py").write_text(FLOW, encoding="utf-8")
    monkeypatch.delenv("GRAFT_GPU_POOL", raising=False)
    assert pools(server, tmp_path) == {"trains": "graft", "writes": "graft"}
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="graft-gpu", type="process"))
    assert pools(server, tmp_path) == {"trains": "graft-gpu", "writes": "graft"}
    monkeypatch.setenv("GRAFT_GPU_POOL", "cluster")
    for _ in range(2):  # made, then there already
        assert pools(server, tmp_path) == {"trains": "cluster", "writes": "graft"}
    with get_client(sync_client=True) as client:
        assert client.read_work_pool("cluster").type == "process"


def test_of_the_shipped_deployments_only_training_requests_a_gpu() -> None:
    wanting = {spec.entrypoint for spec in read_deployments() if "gpu" in spec.tags}
    assert wanting == {"graft.flows.train_student.train_student", "graft.flows.improve.improve"}

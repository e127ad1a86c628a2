"""The Ray executor: on a real cluster of two nodes, one of which dies while it measures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import errors
from harness.errors import BadInput, CellFailed
from harness.records.run import load
from harness.run import executors, sweep
from harness.suites.suite import load_suite

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from harness.run.executors.ray import RayExecutor, needs  # noqa: E402
from tests import workers as worker  # noqa: E402
from tests.fakes import suite as fake_suite  # noqa: E402

NODE: dict[str, Any] = {"num_cpus": 1, "resources": {"timing_slot": 1}, "object_store_memory": 80 * 2**20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_without_a_cluster_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", none)
    with pytest.raises(BadInput, match="no Ray cluster here.*ray start --head"):
        executors.create("ray")


def test_a_job_reserves_the_slot_and_the_gpu_of_its_suite() -> None:
    assert needs((fake_suite(),))["num_gpus"] == 0
    wanted = needs((fake_suite(device="cuda:1"), 3))
    assert wanted["num_gpus"] == 2 and wanted["resources"] == {"timing_slot": 1}
    assert wanted["max_retries"] == 0 and wanted["max_calls"] == 1


@pytest.mark.slow
def test_a_node_that_offers_two_slots_is_refused(cluster: Any) -> None:
    cluster.add_node(**{**NODE, "resources": {"timing_slot": 2}})
    with pytest.raises(BadInput, match="offers 2 of timing_slot"):
        RayExecutor(cluster.address)


@pytest.mark.slow
def test_a_sweep_outlives_one_of_its_two_nodes(cluster: Any, checkpoint: Path, tmp_path: Path) -> None:
    """Every cell is there once, the lost node's jobs were run again, and no two jobs of one node overlapped in time."""
    second = cluster.add_node(**NODE)
    workers = RayExecutor(cluster.address)
    assert workers.slots == 2
    path, out = tmp_path / "tiny.yaml", tmp_path / "run"
    path.write_text(
        f"""
model: {checkpoint}
methods: [full, skipdecode(speedup=2), layerskip(exit_layer=2)]
batch_sizes: [2]
tasks: [{{name: restaurants, limit: 2}}]
new_tokens: 4
max_new_tokens: 4
processes: 2
repeats: 5
threads: 1
memory: false
limits: {{dispersion: 1000, noisy_share: 1}}
"""
    )

    def kill() -> None:
        # The baseline is scored alone; once it is, both nodes score the other arms.
        while not list((out / "cells").glob("quality*.json")):
            time.sleep(0.02)
        time.sleep(1.5)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert sweep.run_suite(load_suite(path), out, workers=workers).failed == 0
    killer.join()
    cells = load(out).cells
    assert len(cells) == 6 and all(cell["status"] == "ok" for cell in cells)
    machines = [machine for cell in cells for machine in cell["machine"]]
    assert max(machine["attempts"] for machine in machines) > 1, "no job was running on the node that was killed"
    for cell in cells:
        if cell["kind"] == "speed":
            assert sorted((run["process"], run["repeat"]) for run in cell["runs"] if "again" not in run) == [
                (p, r) for p in (0, 1) for r in range(5)
            ]


@pytest.mark.slow
def test_failures_are_those_of_the_local_executor(cluster: Any) -> None:
    workers = RayExecutor(cluster.address)
    assert workers.call(worker.answer, [1, 2]).value == [1, 2]
    with pytest.raises(BadInput, match="new_tokens: too many"):
        workers.call(worker.refuse)
    with pytest.raises(CellFailed) as caught:
        workers.call(worker.kill_itself, "CALM 0.9")
    assert caught.value.reason == errors.KILLED and caught.value.arm == "CALM 0.9" and caught.value.log == ["loading"]

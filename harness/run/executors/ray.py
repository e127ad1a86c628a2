"""Jobs on the machines of a Ray cluster, each job alone on its machine.

Every job is a Ray task that holds the `timing_slot` of its node (and its GPU), so no two measured processes share a machine.
The task itself measures nothing: it runs the job with the local executor on its node, in a fresh process, under the same time
limit and with the same records. Suites and arguments travel through Ray's object store by reference; weights and data are
found on each node under the same names as here. A job whose node is lost is run again on another.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from harness.errors import EXCEPTION, NODE_LOST, BadInput, CellFailed
from harness.machine import environment
from harness.records.differences import differences, said
from harness.run.executors.base import BEAT_S, Arguments, Executor, Outcome, T
from harness.run.executors.local import LocalExecutor

SLOT = "timing_slot"
START = f"ray start --head --resources='{{\"{SLOT}\": 1}}'"
ATTEMPTS = 3
"""How often a job is started before its nodes are taken to be at fault."""
_LOOK_S = 2.0


class RayExecutor(Executor):
    """As many jobs at once as the cluster has nodes with a timing slot.

    Args:
        address: of the cluster; default: RAY_ADDRESS, else the cluster this machine belongs to.

    Raises:
        BadInput: Ray is not installed, no cluster is there, no node offers a timing slot or one offers several, or the
            nodes are not alike.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise BadInput("executor: ray is not installed; pip install 'depthbench[ray]'") from None
        self._ray = ray
        try:
            ray.init(
                address=address or "auto", log_to_driver=False, logging_level=logging.ERROR, namespace="depthbench"
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BadInput(
                f"executor: no Ray cluster here ({' '.join(str(error).split())[:100]}); start one with `{START}`, "
                "and give its other nodes --address and the same --resources"
            ) from None
        self._refs: dict[int, tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._signed = time.monotonic()
        self._closed = False
        try:
            self.slots = self._check_nodes()
        except BaseException:
            self.close()
            raise

    @override
    def call(
        self, function: Callable[[*Arguments], T], *arguments: *Arguments, limit_s: float | None = None
    ) -> Outcome[T]:
        """A job whose node is lost is started again, ATTEMPTS times in all."""
        here = {name: os.environ.get(name) for name in environment.THREAD_VARIABLES if name != "CUDA_VISIBLE_DEVICES"}
        task = self._ray.remote(**needs(arguments))(_job)
        why = ""
        for attempt in range(1, ATTEMPTS + 1):
            reference = task.remote(os.getcwd(), here, function, limit_s, *map(self._shared, arguments))
            try:
                kind, value = self._wait(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise CellFailed(
                    f"the job's task raised {' '.join(str(error.cause).split())[:200]}", EXCEPTION
                ) from None
            except self._ray.exceptions.RayError as error:
                if self._closed:
                    raise CellFailed("the run was stopped", NODE_LOST) from None
                why = type(error).__name__
                continue
            if kind == "bad":
                raise BadInput(value)
            if kind == "failed":
                raise CellFailed(**value)
            outcome: Outcome[T] = value
            outcome.machine["attempts"] = attempt
            return outcome
        raise CellFailed(f"its node was lost {ATTEMPTS} times ({why})", NODE_LOST)

    def close(self) -> None:
        """Leave the cluster; what runs there for this run is stopped."""
        if not self._closed:
            self._closed = True
            self._ray.shutdown()

    def _wait(self, reference: Any) -> Any:
        """The result of a task; while it waits, see that there still is a node it could run on."""
        while True:
            done, _ = self._ray.wait([reference], timeout=_LOOK_S)
            if done:
                return self._ray.get(reference)
            self._sign()
            if not self._nodes():
                self._ray.cancel(reference, force=True)
                raise CellFailed(f"no node with a {SLOT} is left", NODE_LOST)

    def _sign(self) -> None:
        """A sign of life for all jobs that are waited for."""
        with self._lock:
            due = time.monotonic() - self._signed >= BEAT_S - _LOOK_S / 2
            if due:
                self._signed = time.monotonic()
        if due and self.alive is not None:
            self.alive("")

    def _shared(self, argument: Any) -> Any:
        """A reference to an argument; the same one for the same object, which is kept as long as it is needed."""
        if argument is None or isinstance(argument, (int, float, str)):
            return argument
        if isinstance(argument, Path):
            return argument.absolute()
        with self._lock:
            if id(argument) not in self._refs:
                self._refs[id(argument)] = (argument, self._ray.put(argument))
            return self._refs[id(argument)][1]

    def _nodes(self) -> list[Mapping[str, Any]]:
        nodes: list[Mapping[str, Any]] = self._ray.nodes()  # type: ignore[no-untyped-call]
        return [node for node in nodes if node["Alive"] and node["Resources"].get(SLOT)]

    def _check_nodes(self) -> int:
        nodes = self._nodes()
        if not nodes:
            raise BadInput(f"executor: no node of the Ray cluster offers a {SLOT}; start each with `{START}`")
        for node in nodes:
            if (many := node["Resources"][SLOT]) != 1:
                raise BadInput(
                    f"executor: node {node['NodeManagerAddress']} offers {many:g} of {SLOT}; give each machine exactly 1, "
                    "or measured processes would share it"
                )
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = self._ray.remote(_describe)
        placed = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        found = self._ray.get([look.options(num_cpus=0, scheduling_strategy=place).remote() for place in placed])
        for node, what in zip(nodes[1:], found[1:], strict=True):
            if apart := said(differences(found[0], what)):
                raise BadInput(
                    f"executor: nodes {nodes[0]['NodeManagerAddress']} and {node['NodeManagerAddress']} are not alike "
                    f"({apart}); give the {SLOT} to like machines only, for their times stand in one table"
                )
        return len(nodes)


def needs(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What a task reserves: its node's slot, and the GPU that the suite names. It is never started again by Ray itself."""
    device = str(getattr(arguments[0] if arguments else None, "device", "cpu"))
    kind, _, number = device.partition(":")
    gpus = int(number or 0) + 1 if kind == "cuda" else 0
    return {"num_cpus": 0, "num_gpus": gpus, "resources": {SLOT: 1}, "max_retries": 0, "max_calls": 1}


def _describe() -> dict[str, Any]:
    """What must be the same on all nodes; runs on a node."""
    facts = environment.fingerprint()
    return {
        "commit": facts["commit"],
        "cpu": facts["cpu"]["model"],
        "cores": facts["cpu"]["usable_cores"],
        "gpu": ", ".join(str(gpu["name"]) for gpu in facts["gpu"] or []),
        "torch": facts["versions"]["torch"],
        "transformers": facts["versions"]["transformers"],
    }


def _job(
    folder: str,
    variables: Mapping[str, str | None],
    function: Callable[..., Any],
    limit_s: float | None,
    *arguments: Any,
) -> Any:
    """Run one job on this node, in a fresh process of the local executor; runs in a Ray worker."""
    if os.path.isdir(folder):
        os.chdir(folder)
    for name, value in variables.items():  # Ray sets some of them; the run's own hold
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    # The fresh process must not take Ray's worker for the program it belongs to.
    main = sys.modules["__main__"]
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        outcome = LocalExecutor().call(function, *arguments, limit_s=limit_s)
    except BadInput as error:
        return "bad", str(error)
    except CellFailed as error:
        return "failed", {"message": str(error), "reason": error.reason, "log": error.log, "arm": error.arm}
    import ray

    outcome.machine["node"] = ray.get_runtime_context().get_node_id()[:12]
    return "ok", outcome

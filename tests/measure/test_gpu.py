"""The real thing, where there is a GPU: what the doubles of the other tests stand for. `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

import methods
from harness.decode.engine import Decoding
from harness.machine import nvml
from harness.measure.probes import breakdown, energy, latency, memory
from harness.models.decoder import Decoder
from tests.conftest import ragged_prompts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = torch.device("cuda:0")


@pytest.fixture
def on_gpu() -> Decoder:
    from harness.models.load import load_model
    from tests.conftest import tiny_opt

    return load_model(tiny_opt().source.to(CUDA))


def test_counters_of_the_device_move() -> None:
    meters = energy.counters(CUDA)
    if not any(m.scope == "gpu" for m in meters):
        pytest.skip("NVML does not give this device's total energy")
    x = torch.randn(2048, 2048, device=CUDA)

    def work() -> int:
        for _ in range(200):
            x @ x
        torch.cuda.synchronize(CUDA)
        return 1

    gpu = nvml.gpu(CUDA)
    assert gpu is not None
    found = energy.measure(work, [m for m in meters if m.scope == "gpu"], CUDA, 2.0, power_w=gpu.power_w)
    assert found["idle_w"] > 1 and found["mean_power_w"] > found["idle_w"]
    # Counter and power reading are two ways to the same number.
    assert found["sampled_power_w"] == pytest.approx(found["mean_power_w"], rel=0.3)


def test_peaks_are_those_since_the_reset() -> None:
    torch.empty(64 << 20, dtype=torch.uint8, device=CUDA)
    memory.reset_peaks(CUDA)
    keep = torch.empty(16 << 20, dtype=torch.uint8, device=CUDA)
    peaks = memory.read_peaks(CUDA)
    assert keep.numel() <= peaks["cuda_peak_allocated_bytes"] < 64 << 20
    assert peaks["cuda_reserved_bytes"] >= peaks["cuda_peak_allocated_bytes"]
    assert peaks["nvml_device_bytes"] is None or peaks["nvml_device_bytes"] > keep.numel()


@pytest.mark.parametrize("spec", ["full", "calm(threshold=0.05,decay=none)", "layerskip(exit_layer=2,draft_tokens=3)"])
def test_timed_and_instrumented_generations_agree(on_gpu: Decoder, spec: str) -> None:
    ids, mask = (t.to(CUDA) for t in ragged_prompts())
    method = methods.create(spec)
    timing, output = latency.measure(
        lambda timed: Decoding(on_gpu, timed, ids, mask, max_new_tokens=8, stop_at_eos=False), method, CUDA
    )
    found, again = breakdown.measure(
        lambda decoder, timed, sampling: Decoding(
            decoder, timed, ids, mask, max_new_tokens=8, stop_at_eos=False, sampling=sampling, static=False
        ),
        on_gpu,
        method,
    )
    assert torch.equal(output.tokens, again.tokens)
    assert sum(timing.step_tokens) == sum(found.step_tokens) == 21
    assert sum(found.parts_s["attention"]) > 0

"""The compiled kernels give the numbers of torch's calls and are used where they can be; elsewhere torch does the work."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.decode.engine import generate
from harness.errors import BadInput
from harness.models.decoder import Decoder
from harness.models.families.blocks import NATIVE_ACTIVATIONS
from harness.models.kernels import linear as kernels
from harness.models.kernels import native, threads
from harness.models.kernels.native import check
from tests.conftest import MODELS, ragged_prompts, tiny
from tests.methods.test_contract import Passing, decode_with_logits
from tests.models.test_families import VARIANTS

NEW = 24
TRIAL = Path(__file__).with_name("native_trial.c")
needs_compiler = pytest.mark.skipif(native.library() is None, reason=f"compiled kernels are {native.status()}")
# What the kernels do not compute: norms elsewhere or on every head, distances, soft-caps.
IN_CALLS = {
    *("opt-350m", "mistral", "qwen3", "qwen3-window", "gemma2", "gemma2-no-caps", "gemma3_text", "gemma3_text-scaled"),
    *("phi3", "phi3-longrope", "bloom", "bloom-normed"),
}
ODD: dict[str, Callable[[], Decoder]] = {
    # Sizes that fill neither a panel nor a vector.
    "opt-odd": lambda: tiny("opt", depth=3, hidden_size=36, word_embed_proj_dim=36, ffn_dim=50, num_attention_heads=3),
    "llama-odd": lambda: tiny("llama", depth=3, hidden_size=40, intermediate_size=45, head_dim=10),
    "opt-gelu": lambda: tiny("opt", depth=3, activation_function="gelu"),
    "gpt2-wide": lambda: tiny("gpt2", depth=2, hidden_size=256, num_attention_heads=8),
    "llama-wide": lambda: tiny("llama", depth=2, hidden_size=128, head_dim=32, num_key_value_heads=1),
}
EVERY = {**MODELS, **VARIANTS, **ODD}
# What meets every branch of the kernels: odd sizes, norms of both kinds, rotary tables, groups, gates, side by side.
WIDTHS = {"opt-odd", "llama-odd", "opt-gelu", "gpt2-wide", "llama-wide", "gpt_neox", "opt"}
SPECS = [
    "full",
    "skipdecode(min_layers=1,max_layers=2)",
    "calm(threshold=0.2)",
    "layerskip(exit_layer=1,draft_tokens=2)",
    "adaskip(skip=f0x11000_a1x8000)",
]


@pytest.mark.parametrize("name", EVERY)
def test_same_numbers_as_calls(name: str, isa: str, runs: list[str]) -> None:
    if isa != native.isas()[0] and name not in WIDTHS:
        pytest.skip("sizes that meet every branch are enough for the narrower widths")
    model = EVERY[name]()
    ids, mask = ragged_prompts(rows=5, width=20)  # more columns than the kernels take: prompts run in calls
    for spec in SPECS[:2] if name in IN_CALLS else SPECS:
        method = methods.create(spec)
        with kernels.only("torch"):
            want, want_logits = decode_with_logits(model, method, ids, mask, NEW)
            assert not runs
        with kernels.only("native"):
            got, logits = decode_with_logits(model, method, ids, mask, NEW)
        torch.testing.assert_close(logits, want_logits, atol=1e-4, rtol=0)
        assert torch.equal(got.tokens, want.tokens)
        assert torch.equal(got.trace.layers, want.trace.layers)
        assert got.kv_written_bytes == want.kv_written_bytes
        if spec == "full":
            blocks = model.depth if name not in IN_CALLS | {"qwen2"} else 2 if name == "qwen2" else 0
            assert runs.count("attend") == runs.count("feed") == blocks * (NEW - 1)
        runs.clear()


def test_a_plan_fills_and_scales_in_one_call(isa: str, runs: list[str]) -> None:
    model, method = ODD["llama-wide"](), Passing()
    ids, mask = ragged_prompts(rows=3, width=20)
    with kernels.only("torch"):
        want, want_logits = decode_with_logits(model, method, ids, mask, NEW)
    with kernels.only("native"):
        got, logits = decode_with_logits(model, method, ids, mask, NEW)
    torch.testing.assert_close(logits, want_logits, atol=1e-4, rtol=0)
    assert got.kv_written_bytes == want.kv_written_bytes
    assert runs.count("fill") == sum(len(step.plan.filled) for step in got.trace.steps) > 0


def test_exits_fill_and_leave_rows_out_alike(isa: str, runs: list[str]) -> None:
    model = ODD["llama-wide"]()
    ids, mask = ragged_prompts(rows=8)
    method = methods.create("calm(threshold=0.02,decay=none)")
    outs = []
    for layout in ("torch", "native"):
        for compact in (False, True):
            with kernels.only(layout):
                outs.append(generate(model, method, ids, mask, max_new_tokens=NEW, compact_exits=compact))
    assert all(torch.equal(outs[0].tokens, out.tokens) for out in outs[1:])
    assert len(set(runs)) == 3


def test_threads_change_nothing(isa: str) -> None:
    model = MODELS["opt"]()
    ids, mask = ragged_prompts(rows=3)
    outs = []
    for count in (1, 2, 3, 9):  # more than there are cores: most of them come late to everything
        torch.set_num_threads(count)
        with kernels.only("native"):
            outs.append(decode_with_logits(model, methods.create("full"), ids, mask)[1])
        assert torch.get_num_threads() == count, "torch has its threads back"
    assert all(torch.equal(outs[0], out) for out in outs[1:])


def test_the_first_of_the_largest_is_chosen(isa: str) -> None:
    x = torch.randn(400, 37).mul_(2).round_()  # many are equal
    x[1, 30] = x[2, 36] = x[3, 0] = float("nan")
    x[4] = float("-inf")
    x[5, 9] = float("inf")
    torch.set_num_threads(2)
    library = native.library()
    assert library is not None
    with torch.inference_mode(), threads.Own(library):
        for width in (21, 31, 32, 33, 37):
            part = x[:, :width].contiguous()
            assert torch.equal(kernels.argmax(part), part.argmax(-1))


@needs_compiler
def test_torch_has_its_threads_back_when_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["opt"]()
    torch.set_num_threads(2)

    def fail(*_: Any) -> torch.Tensor:
        assert threads.team() == (2, 1) and torch.get_num_threads() == 1
        raise RuntimeError("no")

    monkeypatch.setattr(model, "head", fail)
    with kernels.only("native"), pytest.raises(RuntimeError, match="no"):
        generate(model, methods.create("full"), ids := ragged_prompts()[0], torch.ones_like(ids), max_new_tokens=2)
    assert threads.team() == (2, 0) and torch.get_num_threads() == 2


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_gets_threads_of_its_own() -> None:
    """Threads do not survive a fork: who waited for those of before would wait for ever."""
    model = MODELS["opt"]()
    ids, mask = ragged_prompts(rows=3)
    torch.set_num_threads(2)

    def tokens() -> list[list[int]]:
        with kernels.only("native"):
            return generate(model, methods.create("full"), ids, mask, max_new_tokens=NEW).tokens.tolist()  # type: ignore[no-any-return]

    want = tokens()
    library = native.library()
    assert library is not None and library.calls.threads_of_own() >= 1
    child = os.fork()
    if not child:
        same = library.calls.threads_of_own() == 0 and tokens() == want and library.calls.threads_of_own() == 1
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert tokens() == want


@pytest.mark.parametrize("dtype", native.WEIGHTS)
def test_a_row_does_not_depend_on_its_batch(isa: str, dtype: torch.dtype) -> None:
    weight, x = torch.randn(70, 33).to(dtype), torch.randn(250, 33)
    with torch.inference_mode(), kernels.only("native"):
        m = kernels.Linear(weight, torch.randn(70))
        whole = m(x)
        for rows in (*range(1, 16), 25, 97, 200):
            assert torch.equal(m(x[:rows]), whole[:rows])
        torch.testing.assert_close(whole, F.linear(x, weight.float(), m.bias), atol=1e-4, rtol=1e-5)
        assert torch.equal(whole, kernels.Linear(weight.float(), m.bias)(x)), "widening rounds nothing"


@pytest.mark.parametrize("act", NATIVE_ACTIVATIONS, ids=NATIVE_ACTIVATIONS.values())
def test_activations(isa: str, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
    library = native.library()
    assert library is not None
    x = torch.cat((torch.linspace(-30, 30, 4001), torch.tensor([0.0, -0.0, 1e-20, -1e4, 1e4, 88.5, -88.5])))
    identity = library.panels(torch.ones(1, 1))
    got = torch.empty_like(x)
    single = library.map(identity, 1, 1)
    library.calls.linear(
        ctypes.byref(single),
        len(x),
        x.data_ptr(),
        None,
        got.data_ptr(),
        native.ACTIVATIONS[NATIVE_ACTIVATIONS[act]],
        1,
        0,
    )
    torch.testing.assert_close(got, act(x), atol=1e-6, rtol=2e-6)


@pytest.fixture
def fresh_library() -> Iterator[None]:
    native.forget()
    yield
    native.forget()


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("DEPTHBENCH_NATIVE", "0", "off: DEPTHBENCH_NATIVE=0"),
        ("PATH", "", "off: no C compiler"),
        ("CC", "false", "failed"),
    ],
)
@pytest.mark.usefixtures("fresh_library")
def test_without_kernels_everything_runs_in_torch(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv(variable, value)
    assert native.library() is None and reason in native.status()
    ids, mask = ragged_prompts()
    model = MODELS["opt"]()
    with kernels.only("native"):
        out = generate(model, methods.create("full"), ids, mask, max_new_tokens=4)
    with kernels.only("torch"):
        assert torch.equal(out.tokens, generate(model, methods.create("full"), ids, mask, max_new_tokens=4).tokens)


@needs_compiler
@pytest.mark.usefixtures("fresh_library")
def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert native.library() is not None


def test_the_widest_vectors_are_the_default_and_others_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    has = native.isas()
    monkeypatch.delenv(native.ISA_SWITCH, raising=False)
    assert native.isa() == (has[0] if has else None)
    for name in has:
        monkeypatch.setenv(native.ISA_SWITCH, name)
        found = native.library()
        assert found is None or found.isa == name, "the library says itself what it was compiled for"
        assert name in native.status()
    for wrong in ("avx1024", "neon" if "neon" not in has else "avx2"):
        monkeypatch.setenv(native.ISA_SWITCH, wrong)
        with pytest.raises(BadInput, match=f"{native.ISA_SWITCH}: '{wrong}' is not what this processor has"):
            native.library()


@pytest.mark.parametrize("isa_name", native.isas())
def test_no_vector_is_kept_in_memory(isa_name: str) -> None:
    """The sums of the inner loops stay in registers: one that a compiler keeps in memory makes the kernels ten times slower."""
    objdump = shutil.which("objdump")
    with native.using(isa_name):
        found = native.library()
    if objdump is None or found is None or "clang" in found.compiler:
        pytest.skip("needs objdump and kernels compiled by GCC")
    code = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", found.calls._name], capture_output=True, text=True
    ).stdout
    register = {"avx512": "%zmm", "avx2": "%ymm", "sse2": "%xmm"}[isa_name]
    for name in ("tile_of_floats", "tile_of_halves"):
        body = code.split(f"<{name}>:")[1].split("\n\n")[0]
        lines = [line.split("\t", 1)[-1].strip() for line in body.splitlines()]
        sums = [
            i for i, line in enumerate(lines) if "fmadd" in line or (isa_name == "sse2" and line.startswith("addps"))
        ]
        assert len(sums) > 60 and all(register in lines[i] for i in sums)
        spills = [line for line in lines[sums[0] : sums[-1]] if "mov" in line and register in line and "(%rsp)" in line]
        assert not spills


def test_vectors_wider_than_the_processors_do_not_compile(tmp_path: Path) -> None:
    """Without a word a compiler keeps them in memory, and the kernels are ten times slower; `KEEP` asks for a register."""
    compiler = shutil.which("gcc")
    if compiler is None or "avx2" not in native.isas():
        pytest.skip("needs GCC and a processor with AVX2")
    for source in native.SOURCES:
        text = source.read_text()
        (tmp_path / source.name).write_text(text.replace("#define LANES 8", "#define LANES 16"))
    command = [compiler, *native._FLAGS, *native.ISAS["avx2"][1], *native._BUILD, "step.c", "-o", "step.so"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode != 0 and "asm" in made.stderr


def test_kernels_that_are_slower_than_torch_or_wrong_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = native.library()
    if found is None:
        pytest.skip(native.status())
    assert check.against_torch(found)[0] is None
    monkeypatch.setattr(check, "best_in_turns", lambda *_: [2.0, 1.0])
    kept = tmp_path / "step.json"
    said = native._verdict(kept, found)
    assert said is not None and said.startswith("slower than torch's own calls at 1 rows")
    monkeypatch.undo()
    assert native._verdict(kept, found) == said, "asked once for every build"
    assert set(json.loads(kept.read_text())) == {"refused", "seconds", "torch"}
    off = dataclasses.replace(found, panel_columns=2 * found.panel_columns)  # reads its panels wrongly
    assert native._verdict(tmp_path / "other.json", off) == "its results differ from torch's at 1 rows"


def test_other_compilers_and_processors(tmp_path: Path) -> None:
    """The same source for Clang, and for 64-bit Arm by a cross compiler and under an emulator, where they are installed."""
    ran = 0
    for compiler, runner, flags in (
        ("clang", [], ["-mavx2", "-mfma"] if "avx2" in native.isas() else []),
        ("aarch64-linux-gnu-gcc", ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"], []),
    ):
        if shutil.which(compiler) is None or (runner and shutil.which(runner[0]) is None):
            continue
        program = tmp_path / compiler
        command = [
            compiler,
            *native._FLAGS,
            *flags,
            f"-I{native.SOURCES[0].parent}",
            str(TRIAL),
            "-o",
            str(program),
            "-lm",
            "-fopenmp",
            "-pthread",
        ]
        made = subprocess.run(command, capture_output=True, text=True)
        if "omp.h" in made.stderr or "-lomp" in made.stderr:
            continue
        assert made.returncode == 0, made.stderr
        done = subprocess.run([*runner, str(program)], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("neon" if runner else "avx2" if flags else "sse2") in done.stdout
        ran += 1
    if not ran:
        pytest.skip("neither Clang with OpenMP nor a cross compiler with an emulator is installed")

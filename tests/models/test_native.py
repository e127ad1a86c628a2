"""The compiled kernels give the numbers of torch's calls and are used where they can be; elsewhere torch does the work."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional as F

import methods
from harness.decode.engine import generate
from harness.models import fused
from harness.models.decoder import Decoder
from harness.models.families.blocks import NATIVE_ACTIVATIONS
from harness.models.kernels import layouts as kernels
from harness.models.kernels import native
from tests.conftest import MODELS, ragged_prompts, tiny
from tests.methods.test_contract import decode_with_logits
from tests.models.test_families import VARIANTS

NEW = 24
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
SPECS = [
    "full",
    "skipdecode(min_layers=1,max_layers=2)",
    "calm(threshold=0.2)",
    "layerskip(exit_layer=1,draft_tokens=2)",
]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of kernels while a test runs."""
    seen: list[str] = []
    for name in ("attend", "feed", "fill"):
        original = getattr(fused._Kernel, name)

        def counted(self: fused._Kernel, *args: object, name: str = name, original: object = original) -> object:
            seen.append(name)
            return original(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(fused._Kernel, name, counted)
    return seen


@needs_compiler
@pytest.mark.parametrize("name", EVERY)
def test_same_numbers_as_calls(name: str, runs: list[str]) -> None:
    model = EVERY[name]()
    ids, mask = ragged_prompts(rows=5, width=20)  # more columns than the kernels take: prompts run in calls
    for spec in SPECS[:2] if name in IN_CALLS else SPECS:
        method = methods.create(spec)
        with kernels.only("row"):
            want, want_logits = decode_with_logits(model, method, ids, mask, NEW)
            assert not runs
        with kernels.only("panel"):
            got, logits = decode_with_logits(model, method, ids, mask, NEW)
        torch.testing.assert_close(logits, want_logits, atol=1e-4, rtol=0)
        assert torch.equal(got.tokens, want.tokens)
        assert torch.equal(got.trace.layers, want.trace.layers)
        assert got.kv_written_bytes == want.kv_written_bytes
        if spec == "full":
            blocks = model.depth if name not in IN_CALLS | {"qwen2"} else 2 if name == "qwen2" else 0
            assert runs.count("attend") == runs.count("feed") == blocks * (NEW - 1)
        runs.clear()


@needs_compiler
def test_exits_fill_and_leave_rows_out_alike(runs: list[str]) -> None:
    model = ODD["llama-wide"]()
    ids, mask = ragged_prompts(rows=8)
    method = methods.create("calm(threshold=0.02,decay=none)")
    outs = []
    for layout in ("row", "panel"):
        for compact in (False, True):
            with kernels.only(layout):
                outs.append(generate(model, method, ids, mask, max_new_tokens=NEW, compact_exits=compact))
    assert all(torch.equal(outs[0].tokens, out.tokens) for out in outs[1:])
    assert len(set(runs)) == 3


@needs_compiler
def test_threads_change_nothing() -> None:
    model = MODELS["opt"]()
    ids, mask = ragged_prompts(rows=3)
    outs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with kernels.only("panel"):
            outs.append(decode_with_logits(model, methods.create("full"), ids, mask)[1])
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


@needs_compiler
def test_a_row_does_not_depend_on_its_batch() -> None:
    weight, x = torch.randn(70, 33), torch.randn(40, 33)
    with torch.inference_mode(), kernels.only("panel"):
        m = kernels.Linear(weight, torch.randn(70))
        whole = m(x)
        for rows in (1, 2, 5, 11, 12, 13, 25):
            assert torch.equal(m(x[:rows]), whole[:rows])
        torch.testing.assert_close(whole, F.linear(x, weight, m.bias), atol=1e-4, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("act", NATIVE_ACTIVATIONS, ids=NATIVE_ACTIVATIONS.values())
def test_activations(act: Callable[[torch.Tensor], torch.Tensor]) -> None:
    library = native.library()
    assert library is not None
    x = torch.cat((torch.linspace(-30, 30, 4001), torch.tensor([0.0, -0.0, 1e-20, -1e4, 1e4, 88.5, -88.5])))
    identity = native.panels(torch.ones(1, 1))
    got = torch.empty_like(x)
    single = native.Map(identity.data_ptr(), None, 1, 1)
    library.linear(
        ctypes.byref(single), len(x), x.data_ptr(), None, got.data_ptr(), native.ACTIVATIONS[NATIVE_ACTIVATIONS[act]], 1
    )
    torch.testing.assert_close(got, act(x), atol=1e-6, rtol=2e-6)


@needs_compiler
def test_the_choice_is_measured_shared_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_choices", {})
    monkeypatch.setattr(kernels, "_installed", False)
    model = MODELS["opt"]()
    ids = ragged_prompts(rows=3, width=20)[0]
    generate(model, methods.create("full"), ids, max_new_tokens=2, stop_at_eos=False)
    chosen = {key: value for key, value in kernels.table().items() if key.startswith("block ")}
    assert list(chosen) == ["block 32 4/4x8 64 relu rows 4"]
    for choice in ("native", "torch"):
        kernels.install({"block 32 4/4x8 64 relu rows 8": choice})
        other = MODELS["opt"]()
        generate(other, methods.create("full"), ids, max_new_tokens=2, stop_at_eos=False)
        used = other.blocks[0]
        assert isinstance(used, fused.FusableBlock)
        assert (used._kernel is not None) == (choice == "native")


@pytest.fixture
def fresh_library() -> Iterator[None]:
    native._load.cache_clear()
    yield
    native._load.cache_clear()


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
    monkeypatch.setattr(kernels, "_choices", {})  # what was chosen with kernels
    assert native.library() is None and reason in native.status()
    ids, mask = ragged_prompts()
    model = MODELS["opt"]()
    with kernels.only("panel"):
        out = generate(model, methods.create("full"), ids, mask, max_new_tokens=4)
    with kernels.only("row"):
        assert torch.equal(out.tokens, generate(model, methods.create("full"), ids, mask, max_new_tokens=4).tokens)


@needs_compiler
@pytest.mark.usefixtures("fresh_library")
def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert native.library() is not None

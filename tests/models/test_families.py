"""Every family against transformers: logits, greedy tokens, gradients, blocks left out, FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.decode.engine import Decoding, generate
from harness.decode.forced import force, score
from harness.decode.forced_memory import ForcedMemory
from harness.errors import BadInput
from harness.measure.probes import flops
from harness.method import Method, Schedule
from harness.models.block import Context
from harness.models.decoder import Decoder
from harness.models.families.bloom import slopes
from harness.models.kernels import linear
from harness.models.load import FAMILIES, load_model
from harness.plan import LayerPlan, Step
from tests.conftest import FAMILY_SETTINGS, MODELS, VOCABULARY, ragged_prompts, tiny
from tests.decode.test_engine import transformers_tokens
from tests.methods.test_contract import decode_with_logits

FULL = methods.create("full")
NEW = 12
THETA = {"rope_theta": 10000.0}
LLAMA3 = {**THETA, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0], **THETA}


def variant(family: str, **changes: object) -> Callable[[], Decoder]:
    return lambda: tiny(family, depth=3, **changes)


VARIANTS: dict[str, Callable[[], Decoder]] = {
    **{name: build for name, build in MODELS.items() if not name.startswith("opt")},
    "llama-tied-biases": variant("llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16),
    "llama-one-kv-head": variant("llama", num_key_value_heads=1),
    "llama-linear": variant("llama", rope_parameters={**THETA, "rope_type": "linear", "factor": 4.0}),
    "llama-dynamic": variant("llama", rope_parameters={**THETA, "rope_type": "dynamic", "factor": 4.0}),
    "llama-llama3": variant("llama", rope_parameters={**LLAMA3, "original_max_position_embeddings": 16}),
    "llama-yarn": variant("llama", rope_parameters=YARN),
    "mistral-all": variant("mistral", sliding_window=None),
    "qwen2-all": variant("qwen2", use_sliding_window=False, tie_word_embeddings=True),
    "qwen3-window": variant("qwen3", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "gemma2-no-caps": variant("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma3_text-scaled": variant("gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "phi3-all": variant("phi3", partial_rotary_factor=1.0, sliding_window=None),
    "phi3-longrope": variant(
        "phi3", max_position_embeddings=256, original_max_position_embeddings=64, rope_parameters=dict(LONG)
    ),
    "gpt2-scales": variant("gpt2", scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False, n_inner=48),
    "gpt_neox-in-turn": variant("gpt_neox", use_parallel_residual=False, rotary_pct=1.0),
    "gpt_neox-no-bias": variant("gpt_neox", attention_bias=False, tie_word_embeddings=True),
    "bloom-normed": variant(
        "bloom", apply_residual_connection_post_layernorm=True, seed=1, num_attention_heads=6, hidden_size=36
    ),
}
# Attention depends on distance.
DISTANT = [
    *("mistral", "qwen2", "qwen3-window", "gemma2", "gemma2-no-caps", "gemma3_text", "gemma3_text-scaled", "phi3"),
    *("phi3-longrope", "bloom", "bloom-normed"),
]


@pytest.fixture(scope="module", params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> Decoder:
    return VARIANTS[request.param]()


@dataclass(frozen=True)
class Holes(Schedule):
    """A different third of the blocks rests at every step: everyone comes back, and misses keys in between."""

    name: ClassVar[str] = "holes"

    def layers(self, step: Step, prompt_length: int, depth: int) -> LayerPlan:
        return LayerPlan.of([i for i in range(depth) if (i + step.index) % 3], depth)


HOLES = Holes()


def random_ids(rows: int, tokens: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def test_every_family_is_covered() -> None:
    assert set(FAMILY_SETTINGS) == set(FAMILIES) <= set(MODELS)


def test_positions_of_keys_are_kept_where_they_matter() -> None:
    assert {name for name, build in VARIANTS.items() if build().needs_key_positions} == set(DISTANT)


def test_logits_equal_transformers(model: Decoder) -> None:
    ids = random_ids(2, 40)
    with torch.no_grad():
        want = model.source(ids).logits
    assert want.std() > 0.3
    torch.testing.assert_close(score(model, FULL, ids, [40, 40]), want, atol=1e-4, rtol=0)
    torch.testing.assert_close(score(model, FULL, ids, [4, 23]), want, atol=1e-4, rtol=0)


def test_tokens_equal_transformers_alone_and_in_a_padded_batch(model: Decoder) -> None:
    ids, mask = ragged_prompts(rows=4, width=12)
    for prompt, seen in ((ids, mask), (ids[:1], mask[:1])):
        out = generate(model, FULL, prompt, None if seen.all() else seen, max_new_tokens=NEW).tokens
        want = transformers_tokens(model, prompt, seen, NEW)
        assert torch.equal(out, want[:, : out.shape[1]])
    assert len(set(generate(model, FULL, ids, mask, max_new_tokens=NEW).tokens.flatten().tolist())) > 3


@pytest.mark.parametrize(
    "method", [methods.create("skipdecode(min_layers=1,max_layers=3)"), HOLES], ids=["skipdecode", "holes"]
)
def test_decoding_equals_score(model: Decoder, method: Method) -> None:
    ids, mask = ragged_prompts(rows=3, width=9)
    out, logits = decode_with_logits(model, method, ids, mask, NEW)
    for row in range(3):
        prompt = ids[row][mask[row].bool()]
        sequence = torch.cat((prompt, out.tokens[row])).unsqueeze(0)
        scored = score(model, method, sequence, [len(prompt)], expected_tokens=NEW)[0]
        torch.testing.assert_close(scored[len(prompt) - 1 : -1], logits[row], atol=1e-4, rtol=0)


def layers_of(source: Any) -> Any:
    body = source.base_model
    return body.h if hasattr(body, "h") else body.layers


def logits_with_holes(source: Any, ids: torch.Tensor, ran: torch.Tensor) -> torch.Tensor:
    """The layers of transformers over ids [1, T], where layer l runs only at the positions ran [T, L] and holds keys only there."""

    def enter(layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            args = list(args)
            missing = ~ran[:, layer] & ~torch.eye(ids.shape[1], dtype=torch.bool)
            hide = torch.zeros(missing.shape).masked_fill(missing, torch.finfo().min)
            if "attention_mask" in kwargs:
                kwargs = {**kwargs, "attention_mask": (kwargs["attention_mask"] + hide).clamp_min(torch.finfo().min)}
            else:  # GPT-2 passes it by place
                args[2] = (args[2] + hide).clamp_min(torch.finfo().min)
            return tuple(args), kwargs

        return hook

    def leave(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            new = output[0] if isinstance(output, tuple) else output
            kept = torch.where(ran[None, :, layer, None], new, args[0])
            return (kept, *output[1:]) if isinstance(output, tuple) else kept

        return hook

    hooks = []
    for index, layer in enumerate(layers_of(source)):
        hooks.append(layer.register_forward_pre_hook(enter(index), with_kwargs=True))
        hooks.append(layer.register_forward_hook(leave(index)))
    try:
        with torch.no_grad():
            return source(ids, attention_mask=torch.ones_like(ids)).logits[0]  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()


def test_holes_equal_transformers_with_keys_hidden(model: Decoder) -> None:
    """Distances count positions, not keys held: the reference holds every position and hides those that did not run."""
    prompt = random_ids(1, 6)
    out, logits = decode_with_logits(model, HOLES, prompt, new=NEW)
    ids = torch.cat((prompt, out.tokens), dim=1)[:, :-1]
    ran = torch.ones(ids.shape[1], model.depth, dtype=torch.bool)
    ran[prompt.shape[1] :] = out.trace.layers[0, 1:]
    assert not ran.all()
    want = logits_with_holes(model.source, ids, ran)[prompt.shape[1] - 1 :]
    torch.testing.assert_close(logits[0], want, atol=1e-4, rtol=0)


def test_propagated_states_equal_their_score(model: Decoder) -> None:
    """Rows that exited fill the keys and values of the blocks above them."""
    method = methods.create("calm(threshold=0.1,decay=none)")
    ids, mask = ragged_prompts(rows=3, width=9)
    out, logits = decode_with_logits(model, method, ids, mask, NEW)
    depths = out.trace.layers[:, 1:].sum(2)
    assert depths.min() < model.depth
    for row in range(3):
        prompt = ids[row][mask[row].bool()]
        sequence = torch.cat((prompt, out.tokens[row])).unsqueeze(0)
        scored = score(model, method, sequence, [len(prompt)], expected_tokens=NEW)[0]
        torch.testing.assert_close(scored[len(prompt) - 1 : -1], logits[row], atol=1e-4, rtol=0)


def test_drafts_are_verified_exactly(model: Decoder) -> None:
    ids, mask = ragged_prompts(rows=3, width=9)
    method = methods.create("layerskip", exit_layer=2, draft_tokens=3)
    want = generate(model, FULL, ids, mask, max_new_tokens=NEW).tokens
    assert torch.equal(generate(model, method, ids, mask, max_new_tokens=NEW).tokens, want)


def test_gradients_equal_transformers(model: Decoder) -> None:
    ids = random_ids(2, 14)
    labels = ids[:, 8:]
    model.source.zero_grad()
    F.cross_entropy(model.source(ids).logits[:, 7:-1].flatten(0, 1), labels.flatten()).backward()
    want = {name: p.grad for name, p in model.source.named_parameters()}
    model.source.zero_grad(set_to_none=True)
    try:
        model.refresh()
        forced = force(model, FULL, ids[:, :8], None, labels[:, :-1], expected_tokens=6)
        states = torch.cat((forced.prompt_hidden[:, -1:], forced.target_hidden), dim=1)
        F.cross_entropy(model.head(states).flatten(0, 1), labels.flatten()).backward()
        for name, parameter in model.source.named_parameters():
            assert want[name].abs().max() > 0, name
            torch.testing.assert_close(parameter.grad, want[name], atol=1e-5, rtol=1e-3, msg=name)
    finally:
        model.source.zero_grad(set_to_none=True)
        with torch.inference_mode():
            model.refresh()


@pytest.mark.parametrize("spec", ["full", "skipdecode(min_layers=1,max_layers=3)"])
def test_flops_equal_torch_counter(model: Decoder, spec: str) -> None:
    ids = random_ids(2, 9)
    with sdpa_kernel(SDPBackend.MATH), linear.only("torch"), FlopCounterMode(display=False) as counter:
        decoding = Decoding(model, methods.create(spec), ids, max_new_tokens=8, stop_at_eos=False)
        decoding.prefill()
        prefill = counter.get_total_flops()
        while not decoding.done:
            decoding.step()
    counted = flops.count(decoding.trace, model.geometry, 4, 4)
    assert counted.prefill == pytest.approx(prefill, rel=0.01)
    assert counted.decode == pytest.approx(counter.get_total_flops() - prefill, rel=0.01)


def test_geometry_counts_every_parameter_of_a_block(model: Decoder) -> None:
    g = model.geometry
    layer = layers_of(model.source)[-1]
    assert g.attention_weights + g.feed_weights + g.block_vectors == sum(p.numel() for p in layer.parameters())
    assert g.kv_weights == 2 * g.width * g.kv_heads * g.head_dim
    assert g.attention_weights - g.kv_weights == 2 * g.width * g.heads * g.head_dim
    assert g.head_weights == g.vocabulary * g.width and g.max_positions == 64


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("mistral", "sliding_window", None),
        ("gemma2", "attn_logit_softcapping", None),
        ("gemma2", "query_pre_attn_scalar", 16),
        ("gemma3_text", "sliding_window", 60),
        ("phi3", "sliding_window", None),
        ("gpt_neox", "use_parallel_residual", False),
    ],
)
def test_what_distinguishes_a_family_shows_in_its_logits(name: str, field: str, value: object) -> None:
    """The tiny models are sensitive to what is tested on them."""
    ids = random_ids(1, 30)
    changed = tiny(name, depth=MODELS[name]().depth, **{field: value})
    assert (score(MODELS[name](), FULL, ids, [30]) - score(changed, FULL, ids, [30])).abs().max() > 0.05


@pytest.mark.parametrize("name", DISTANT)
def test_distances_matter_in_the_tiny_models(name: str) -> None:
    """Positions with a gap in them give other logits, so a cache that counted keys held would be found out."""
    decoder = VARIANTS[name]()
    ids = random_ids(1, 10)
    hidden = []
    for gap in (0, 3):
        positions = torch.arange(10)[None] + gap * (torch.arange(10) > 4)
        memory = ForcedMemory(decoder.depth)
        with torch.inference_mode():
            x = decoder.embed(ids, positions)
            context = Context(positions, torch.ones(1, 1, 10, 10, dtype=torch.bool).tril())
            for block in decoder.blocks:
                x = block.feed(block.attend(x, memory, context), x)
        hidden.append(x)
    torch.testing.assert_close(hidden[0][:, :5], hidden[1][:, :5])
    assert (hidden[0][:, 5:] - hidden[1][:, 5:]).abs().max() > 0.05


def test_slopes_equal_transformers() -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    for heads in (1, 4, 6, 8, 12, 16, 40, 112):
        alibi = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)
        torch.testing.assert_close(slopes(heads), alibi[:, 0, 1])


@pytest.mark.parametrize("name", ["phi3-longrope", "llama-dynamic"])
def test_frequencies_that_change_with_the_length(name: str) -> None:
    """Sequences that would change them are refused, and that transformers ran one changes nothing here."""
    decoder, ids = VARIANTS[name](), random_ids(1, 60)
    with pytest.raises(BadInput, match="the model has 64"):
        Decoding(decoder, FULL, ids, max_new_tokens=6)
    before = score(decoder, FULL, ids, [60])
    frequencies = decoder.source.model.rotary_emb.inv_freq.clone()
    with torch.no_grad():
        decoder.source(random_ids(1, 80))
    assert not torch.equal(decoder.source.model.rotary_emb.inv_freq, frequencies)
    assert torch.equal(score(decoder, FULL, ids, [60]), before)
    assert torch.equal(score(load_model(decoder.source), FULL, ids, [60]), before)


def test_scaled_rotary_survives_saving(tmp_path: Path) -> None:
    """Frequencies are no weights: transformers makes them anew when it loads."""
    from transformers import AutoModelForCausalLM

    for name in ("llama-llama3", "llama-yarn", "gemma3_text-scaled", "phi3-longrope"):
        decoder = VARIANTS[name]()
        decoder.source.save_pretrained(tmp_path / name)
        again = load_model(AutoModelForCausalLM.from_pretrained(tmp_path / name))
        ids = random_ids(1, 30)
        torch.testing.assert_close(score(again, FULL, ids, [9]), score(decoder, FULL, ids, [9]), atol=1e-5, rtol=0)


def test_half_precision_follows_transformers(model: Decoder) -> None:
    """What it computes is rounded to bfloat16, too; here, on a CPU, the weights alone are."""
    ids = random_ids(2, 20)
    name = model.source.config.model_type
    source = type(model.source)(model.source.config).to(torch.bfloat16).eval()
    source.load_state_dict(model.source.state_dict())
    with torch.no_grad():
        want = source(ids).logits.float()
        exact = model.source(ids).logits
    got = score(load_model(source), FULL, ids, [6, 20])
    assert got.dtype == torch.float32
    error, allowed = (got.float() - exact).square().mean().sqrt(), (want - exact).square().mean().sqrt()
    assert error < allowed + 0.01, f"{name}: {error} against {allowed}"

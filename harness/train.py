"""Skip-aware training on transformers' Trainer: mixed precision, several GPUs, resume and logging come with it.

The method is asked for its training plan (`Method.training_plan`); nothing here knows a method by name. Every batch is one
teacher-forced pass (`harness.scoring.force`), the very computation that scores and, step by step, decodes: a position runs in
training what it will run at inference.

    depthbench train opt-e2e-mini-full --data DIR
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

import methods
from harness import tasks
from harness.errors import BadInput
from harness.method import Method, TrainingPlan, TrainingStage
from harness.models import kernels, load_model
from harness.models.decoder import Decoder
from harness.recipes import Recipe, StageSettings
from harness.scoring import TrainingPass, force

_GPU_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class Pair:
    """One prompt with some of its references, as token ids; references end with the end token."""

    prompt: list[int]
    targets: list[list[int]]

    @property
    def cost(self) -> int:
        """Length by which batches are grouped: mostly that of the continuations, several of which share one prompt."""
        return len(self.prompt) // 4 + max(map(len, self.targets))


class Pairs(torch.utils.data.Dataset[Pair]):
    """The training pairs of a recipe, references of one prompt in groups of similar length."""

    def __init__(self, recipe: Recipe, decoder: Decoder, data: Path | None) -> None:
        tokenizer = decoder.tokenizer
        self.pairs: list[Pair] = []
        self.dropped = 0
        lengths: list[int] = []
        for source in recipe.data:
            examples = tasks.create(source.task, data).examples(source.split, source.limit)
            prompts = tokenizer([e.prompt for e in examples]).input_ids
            references = [tokenizer(list(e.references[: source.references])).input_ids for e in examples]
            for prompt, texts in zip(prompts, references, strict=True):
                texts = sorted(([*ids, tokenizer.eos_token_id] for ids in texts), key=len)
                fits = [ids for ids in texts if len(prompt) + len(ids) - 1 <= decoder.geometry.max_positions]
                self.dropped += len(texts) - len(fits)
                lengths.extend(map(len, fits))
                group = recipe.references_per_prompt
                self.pairs.extend(Pair(prompt, fits[i : i + group]) for i in range(0, len(fits), group))
        if not self.pairs:
            raise BadInput(
                f"recipe {recipe.name}: no reference fits the model's {decoder.geometry.max_positions} positions"
            )
        self.references = len(lengths)
        self.median_tokens = int(statistics.median(lengths))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


def collate(pairs: Sequence[Pair], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded prompts [M, P] with their lengths [M], continuations [N, T+1], the prompt row of each, and a batch number."""
    width = max(len(p.prompt) for p in pairs)
    targets = [(row, ids) for row, pair in enumerate(pairs) for ids in pair.targets]
    length = max(len(ids) for _, ids in targets)
    labels = torch.tensor([ids + [pad] * (length - len(ids)) for _, ids in targets])
    return {
        "prompts": torch.tensor([p.prompt + [pad] * (width - len(p.prompt)) for p in pairs]),
        "prompt_lengths": torch.tensor([len(p.prompt) for p in pairs]),
        "owners": torch.tensor([row for row, _ in targets]),
        "labels": labels,
        "real": torch.tensor([[i < len(ids) for i in range(length)] for _, ids in targets]),
        # What a method draws for this batch depends on the batch alone, so a resumed run draws the same.
        "draw": torch.tensor(zlib.crc32(labels.numpy().tobytes())),
    }


class ForcedModel(nn.Module):
    """A decoder as a torch module whose forward is the loss of one training stage."""

    def __init__(
        self, decoder: Decoder, plan: TrainingPlan, stage: TrainingStage, expected_tokens: int, seed: int
    ) -> None:
        super().__init__()
        self.source = decoder.source
        self.extras = nn.ParameterDict()
        if stage.extras is not None:
            self.source.requires_grad_(False)
            shapes = stage.extras(decoder.geometry.width)
            self.extras.update(
                {name.replace(".", "__"): nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
            )
        self._decoder, self._plan, self._stage = decoder, plan, stage
        self._expected_tokens, self._seed = expected_tokens, seed
        self._full = methods.create("full")
        self.register_state_dict_post_hook(_drop_tied)  # type: ignore[no-untyped-call]
        # What the Trainer expects to be missing when it loads a state saved without the tied twins.
        self._keys_to_ignore_on_save = [
            f"source.{name}" for name in getattr(self.source, "_tied_weights_keys", None) or ()
        ]

    def tie_weights(self) -> None:
        """Called by the Trainer after loading; the twins share one tensor all along, so there is nothing to do."""

    def named_extras(self) -> dict[str, torch.Tensor]:
        """The extra tensors being trained, under the names methods know."""
        return {name.replace("__", "."): value for name, value in self.extras.items()}

    def forward(
        self,
        prompts: torch.Tensor,
        prompt_lengths: torch.Tensor,
        owners: torch.Tensor,
        labels: torch.Tensor,
        real: torch.Tensor,
        draw: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Loss of one batch from `collate`."""
        method: Method = self._full
        if self._plan.draw is not None:
            method = self._plan.draw(random.Random(f"{self._seed}-{int(draw)}"))
        grad = torch.is_grad_enabled() and self._stage.extras is None
        # A frozen model needs no gradients through it: the loss reads its states and trains only the extras.
        # The fused attention kernels of a CPU are slow backwards in bfloat16; the plain one is the faster there.
        backends = [SDPBackend.MATH] if labels.device.type == "cpu" else _GPU_BACKENDS
        with torch.set_grad_enabled(grad), sdpa_kernel(backends), kernels.only("row"):
            self._decoder.refresh()
            forced = force(
                self._decoder,
                method,
                prompts,
                prompt_lengths,
                labels[:, :-1],
                owners,
                expected_tokens=self._expected_tokens,
                keep_blocks=self._stage.keep_blocks,
            )
        passed = TrainingPass(self._decoder, forced, owners, labels, real, self.named_extras())
        return {"loss": self._stage.loss(passed)}


def _drop_tied(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Safetensors refuses one tensor under two names; a tied one is restored with its twin."""
    for name in getattr(module.source, "_tied_weights_keys", None) or ():
        state.pop(f"{prefix}source.{name}", None)


class _GroupedTrainer(Trainer):
    """Trainer whose batches hold pairs of similar length."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        generator = torch.Generator().manual_seed(self.args.seed)
        assert isinstance(dataset, Pairs)
        lengths = [pair.cost for pair in dataset.pairs]
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths, generator=generator)


class _Lines(TrainerCallback):  # type: ignore[misc]
    """One line per log entry; the Trainer's own prints a dict."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            print(
                f"step {state.global_step}/{state.max_steps} loss {logs['loss']:.4f} lr {logs['learning_rate']:.2e}",
                flush=True,
            )


def train(
    recipe: Recipe, out: Path, *, data: Path | None = None, work: Path | None = None, device: str = "cpu"
) -> Path:
    """Run a recipe; an interrupted run goes on from its last saved step.

    Args:
        recipe: from `harness.recipes.load_recipe`.
        out: folder of the finished checkpoint, written once at the end.
        data: folder with local data, for tasks that need it.
        work: folder of intermediate states (default `<out>.work`); what is found there is resumed.
        device: `cpu` or `cuda`.

    Returns:
        `out`.

    Raises:
        BadInput: the recipe does not fit its model, method or data, or `out` exists already.
    """
    if (out / "config.json").exists():
        raise BadInput(f"out: {out} holds a checkpoint already; choose another folder or remove it")
    work = work or out.with_name(out.name + ".work")
    set_seed(recipe.seed)
    decoder = _start(recipe, data, work, device)
    method = methods.create(recipe.method)
    plan = method.training_plan()
    unknown = set(recipe.stages) - {stage.name for stage in plan.stages}
    if unknown:
        known = ", ".join(stage.name for stage in plan.stages)
        raise BadInput(
            f"recipe {recipe.name}: stages.{sorted(unknown)[0]} is not a stage of {method.name}; it has {known}"
        )
    pairs = Pairs(recipe, decoder, data)
    expected = recipe.expected_tokens or pairs.median_tokens
    print(
        f"{recipe.name}: {len(pairs)} groups, {pairs.references} references (median {pairs.median_tokens} tokens, "
        f"{pairs.dropped} too long), expected_tokens {expected}",
        flush=True,
    )
    extras: dict[str, torch.Tensor] = dict(decoder.extras)
    for stage in plan.stages:
        settings = recipe.stages.get(stage.name)
        if settings is not None:
            model = ForcedModel(decoder, plan, stage, expected, recipe.seed)
            _run_stage(recipe, stage, settings, model, pairs, decoder, work / stage.name, device)
            extras.update({name: value.detach().cpu() for name, value in model.named_extras().items()})
    save(decoder, out, extras, _card(recipe, pairs, expected))
    return out


def _run_stage(
    recipe: Recipe,
    stage: TrainingStage,
    settings: StageSettings,
    model: ForcedModel,
    pairs: Pairs,
    decoder: Decoder,
    work: Path,
    device: str,
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type="cosine",
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=1.0,
        per_device_train_batch_size=recipe.prompts_per_step,
        bf16=recipe.bf16,
        use_cpu=device == "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_steps=recipe.save_every,
        save_total_limit=1,
        logging_steps=recipe.log_every,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=device != "cpu",
    )
    trainer = _GroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=pairs,
        data_collator=lambda batch: collate(batch, decoder.pad_token_id),
        callbacks=[_Lines()],
    )
    for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
        trainer.remove_callback(callback)
    saved = any(work.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=saved or None)


def _start(recipe: Recipe, data: Path | None, work: Path, device: str) -> Decoder:
    """The decoder a recipe starts from: a checkpoint, or a fresh model with a tokenizer trained on the recipe's data."""
    if recipe.start is not None:
        return load_model(recipe.start, device=device)
    assert recipe.architecture is not None, "a recipe has a start or an architecture"
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        _train_tokenizer(recipe, data, folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    settings = dict(recipe.architecture)
    config = AutoConfig.for_model(
        **settings,
        vocab_size=recipe.vocabulary,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    source = AutoModelForCausalLM.from_config(config)
    source.generation_config.eos_token_id, source.generation_config.pad_token_id = 1, 0
    return load_model(source.to(device), tokenizer=tokenizer)


def _train_tokenizer(recipe: Recipe, data: Path | None, folder: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    examples = [e for s in recipe.data for e in tasks.create(s.task, data).examples(s.split, s.limit)]
    bpe = ByteLevelBPETokenizer()
    texts = (text for e in examples for text in (e.prompt, *e.references))
    bpe.train_from_iterator(texts, vocab_size=recipe.vocabulary, special_tokens=["<pad>", "</s>"], show_progress=False)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="</s>", padding_side="left"
    ).save_pretrained(folder)


def _card(recipe: Recipe, pairs: Pairs, expected: int) -> dict[str, Any]:
    return {
        "trained_for": recipe.method,
        "expected_tokens": expected,
        "recipe": recipe.model_dump(exclude_none=True),
        "references": pairs.references,
        "data": sorted({source.task for source in recipe.data}),
    }


def save(decoder: Decoder, out: Path, extras: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write a checkpoint: fp16 safetensors, tokenizer, extra tensors, and `depthbench.json` with its card."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    decoder.source.to(torch.float16).save_pretrained(out)
    decoder.tokenizer.save_pretrained(out)
    if extras:
        (out / "extras").mkdir(exist_ok=True)
        save_file(
            {k: v.to(torch.float16).contiguous() for k, v in extras.items()}, out / "extras" / "extras.safetensors"
        )
    (out / "depthbench.json").write_text(json.dumps(card, indent=2) + "\n")

"""Skip-aware training on transformers' Trainer: mixed precision, several GPUs, resume and logging come with it.

The method is asked for its training plan (`Method.training_plan`); nothing here knows a method by name. Every batch is one
teacher-forced pass (`harness.decode.forced.force`), the very computation that scores and, step by step, decodes: a position runs in
training what it will run at inference. Dropout of the architecture itself is not applied: blocks compute what they compute when
decoding.

    depthbench train opt-e2e-mini-full --data DIR --out DIR
    torchrun --nproc-per-node 4 -m depthbench train finetune-skipdecode --device cuda --task cnn_dm --out DIR

Under torchrun or `accelerate launch` every process takes its share of each step's prompts, so a recipe means the same on any
number of devices that divides them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from harness import tasks
from harness.errors import BadInput
from harness.files import check_writable
from harness.models.decoder import Decoder
from harness.models.load import load_model
from harness.train import progress
from harness.train.batches import Pair, Pairs, collate
from harness.train.checkpoint import begun_with, card, check_free, mixed, publish, save
from harness.train.meter import PICTURE, TABLE, Curve, Meter
from harness.train.recipes import Recipe, StageSettings
from harness.train.stage_model import ForcedModel
from harness.training import Moment

__all__ = ["ForcedModel", "Pair", "Pairs", "collate", "save", "train"]


class _GroupedTrainer(Trainer):
    """Trainer whose batches hold pairs of similar length, and whose tokens are counted."""

    def __init__(self, meter: Meter, **settings: Any) -> None:
        super().__init__(**settings, callbacks=[meter, _Moments(settings["model"]), _Finite(settings["model"])])
        self._meter = meter

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        tokens = inputs["prompt_lengths"].sum() + inputs["real"].sum()
        if self.args.world_size > 1:
            tokens = self.accelerator.reduce(tokens)
        self._meter.tokens += int(tokens)
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, "tokens": self._meter.tokens, "seconds": round(self._meter.seconds, 3)}, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        generator = torch.Generator().manual_seed(self.args.seed)
        assert isinstance(dataset, Pairs)
        lengths = [pair.cost for pair in dataset.pairs]
        # Grouped over the whole step, so that all devices get batches of similar size.
        step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(step, lengths=lengths, generator=generator)


class _Moments(TrainerCallback):  # type: ignore[misc]
    """Tells the model which step it is at, also after a resume."""

    def __init__(self, model: ForcedModel) -> None:
        self._model = model

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._model.moment = Moment(state.global_step, state.max_steps)


class _Finite(TrainerCallback):  # type: ignore[misc]
    """Stops a training before a step whose gradient is not finite: it would spoil all weights, and the Trainer logs a loss of 0."""

    def __init__(self, model: ForcedModel) -> None:
        self._model = model

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        norms = torch._foreach_norm([p.grad for p in self._model.parameters() if p.grad is not None])
        if not torch.stack(norms).sum().isfinite():
            raise BadInput(
                f"stage {self._model.stage.name}: the gradient of step {state.global_step + 1} is not finite; train in float32 "
                "(bf16: false), or with a lower learning_rate"
            )


def train(
    recipe: Recipe, out: Path, *, data: Path | None = None, work: Path | None = None, device: str = "cpu"
) -> Path:
    """Run a recipe; an interrupted run goes on from its last saved step.

    Args:
        recipe: from `harness.train.recipes.load_recipe`.
        out: folder of the finished checkpoint, written once at the end.
        data: folder with local data, for tasks that need it.
        work: folder of intermediate states (default `<out>.work`); what is found there is resumed.
        device: `cpu` or `cuda`.

    Returns:
        `out`.

    Raises:
        BadInput: the recipe does not fit its model, method or data, `out` exists already, or a gradient is not finite.
    """
    check_free(out)
    work = work or out.with_name(out.name + ".work")
    group = PartialState(cpu=device == "cpu")
    if group.is_main_process:
        check_writable(out, "out", folder=True)
    batch = recipe.batch_per_device(group.num_processes)
    plan = recipe.plan
    if group.num_processes > 1 and device == "cuda":
        device = str(group.device)
    began = group.is_main_process and progress.claim(work, recipe.model_dump(mode="json"))
    try:
        decoder, begun, pairs, checks, adapters = _prepare(recipe, data, work, device, group)
    except BaseException:
        # What never began leaves nothing behind that the next attempt would have to fit.
        if began:
            progress.release(work)
        raise
    expected = recipe.expected_tokens or pairs.median_tokens
    steps = sum(recipe.stages[stage.name].steps for stage in plan.stages if stage.name in recipe.stages)
    tokens = steps * recipe.prompts_per_step * pairs.mean_tokens
    group.print(
        f"{recipe.name}: {len(pairs)} groups, {pairs.references} references (median {pairs.median_tokens} tokens, "
        f"{pairs.dropped} too long), expected_tokens {expected}, {steps} steps, about {tokens:,.0f} tokens"
        + (f", {checks.references} for validation" if checks else "")
        + (f"; {group.num_processes} processes" if group.num_processes > 1 else ""),
        flush=True,
    )
    curve = Curve(work, f"{recipe.name}: {recipe.method}")
    run = _Run(recipe, batch, pairs, checks, decoder, device, curve, group.is_main_process)
    extras: dict[str, torch.Tensor] = dict(decoder.extras)
    costs: dict[str, dict[str, int | float]] = {}
    best: dict[str, Any] = {}
    trainable = [p for p in decoder.source.parameters() if p.requires_grad]
    for stage in plan.stages:
        settings = recipe.stages.get(stage.name)
        if settings is not None:
            for p in trainable:  # a stage before may have frozen them
                p.requires_grad_(True)
            model = ForcedModel(decoder, plan, stage, expected, recipe.seed, recipe.gradient_checkpointing)
            costs[stage.name], best[stage.name] = run.stage(settings, model, work / stage.name)
            extras.update({name: value.detach().cpu() for name, value in model.named_extras().items()})
    if group.is_main_process:
        said = card(recipe, pairs, expected, costs, device, group.num_processes, begun)
        start = recipe.start if recipe.keep == "delta" else None
        _finish(decoder, out, work, extras, {**said, "validation_loss": best} if checks else said, adapters, start)
    group.wait_for_everyone()
    group.print(out, flush=True)
    return out


def _finish(
    decoder: Decoder,
    out: Path,
    work: Path,
    extras: Mapping[str, torch.Tensor],
    said: Mapping[str, Any],
    adapters: Any,
    start: str | None,
) -> None:
    """Write the checkpoint beside the saved steps, then put it in its place: a stop in between is made good by the next call."""
    made = work / "finished"
    shutil.rmtree(made, ignore_errors=True)
    factors = None
    if adapters is not None:
        from harness.train import lora

        if start is None:
            adapters.save_pretrained(made / "adapter")
            lora.merge(adapters)
        else:
            factors = lora.take_out(adapters)
    save(decoder, made, extras, said, start, out, factors)
    for name in (TABLE, PICTURE):
        shutil.copy(work / name, made / name)
    publish(made, out)


def _prepare(
    recipe: Recipe, data: Path | None, work: Path, device: str, group: PartialState
) -> tuple[Decoder, dict[str, Any] | None, Pairs, Pairs | None, Any]:
    """The model and what it was before, the pairs to train and to validate on, and the adapters: everything bad input can spoil."""
    set_seed(recipe.seed)
    # The first process makes what the others read: the tokenizer, and downloads.
    with group.main_process_first():
        decoder = _start(recipe, data, work, device)
    begun = begun_with(recipe, decoder)
    pairs = Pairs(recipe.data, decoder, data, recipe.references_per_prompt, recipe.max_tokens)
    checks = None
    if recipe.validation is not None:
        checks = Pairs(recipe.validation.data, decoder, data, recipe.references_per_prompt, recipe.max_tokens)
    adapters = None
    if recipe.lora is not None:
        from harness.train import lora

        adapters = lora.attach(decoder.source, recipe.lora)
    return decoder, begun, pairs, checks, adapters


@dataclass(frozen=True)
class _Run:
    """What all stages of one training share."""

    recipe: Recipe
    batch: int
    pairs: Pairs
    checks: Pairs | None
    decoder: Decoder
    device: str
    curve: Curve
    speaks: bool

    def stage(
        self, settings: StageSettings, model: ForcedModel, work: Path
    ) -> tuple[dict[str, int | float], float | None]:
        """Train one stage, from its last saved step if there is one; returns its cost and the lowest validation loss."""
        work.mkdir(parents=True, exist_ok=True)
        meter = Meter(model.stage.name, self.curve, self.speaks)
        saved = progress.last_saved(work)
        state = None if saved is None else progress.state_of(saved)
        if saved is not None and state is not None:
            meter.resume(state)
        if saved is not None and state is not None and state["global_step"] >= settings.steps:
            # The Trainer would take one more step before it sees that all are done.
            meter.finished(state)
            best = state.get("best_model_checkpoint") if self.recipe.validation else None
            progress.restore(model, saved if best is None else work / Path(best).name)
        else:
            trainer = _GroupedTrainer(
                meter,
                model=model,
                args=self._arguments(settings, work),
                train_dataset=self.pairs,
                eval_dataset=self.checks,
                data_collator=lambda batch: collate(batch, self.decoder.pad_token_id),
            )
            for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
                trainer.remove_callback(callback)
            trainer.train(resume_from_checkpoint=None if saved is None else str(saved))
            state = {"best_metric": trainer.state.best_metric}
        cost = {"steps": settings.steps, "tokens": meter.tokens, "seconds": round(meter.seconds, 1)}
        return cost, state.get("best_metric")

    def _arguments(self, settings: StageSettings, work: Path) -> TrainingArguments:
        recipe, cpu = self.recipe, self.device == "cpu"
        checks: dict[str, Any] = {"save_steps": recipe.save_every}
        if recipe.validation is not None:
            every = min(recipe.validation.every, settings.steps)
            checks = {
                "save_steps": every,
                "eval_strategy": "steps",
                "eval_steps": every,
                "load_best_model_at_end": True,
                "metric_for_best_model": "loss",
                "greater_is_better": False,
                "prediction_loss_only": True,
                "per_device_eval_batch_size": self.batch,
            }
        return TrainingArguments(
            output_dir=str(work),
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            lr_scheduler_type="cosine",
            weight_decay=recipe.weight_decay,
            optim="adafactor" if recipe.optimizer == "adafactor" else "adamw_torch_fused",
            adam_beta2=recipe.adam_beta2,
            max_grad_norm=1.0,
            per_device_train_batch_size=self.batch,
            gradient_accumulation_steps=recipe.accumulate,
            bf16=mixed(recipe, self.device),
            use_cpu=cpu,
            ddp_backend="gloo" if cpu and "RANK" in os.environ else None,
            seed=recipe.seed,
            data_seed=recipe.seed,
            save_total_limit=1,
            logging_steps=recipe.log_every,
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=not sys.stderr.isatty(),
            dataloader_pin_memory=not cpu,
            **checks,
        )


def _start(recipe: Recipe, data: Path | None, work: Path, device: str) -> Decoder:
    """The decoder a recipe starts from: a checkpoint, or a fresh model with a tokenizer trained on the recipe's data."""
    if recipe.start is not None:
        decoder = load_model(recipe.start, device=device, dtype=recipe.dtype)
        if decoder.tokenizer is None:
            raise BadInput(f"recipe {recipe.name}: start {recipe.start} has no tokenizer; save one beside the weights")
        return decoder
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

"""Is the full model here a fair baseline? Its speed beside the engines a user could pick instead.

Every engine holds the same weights in a process of its own and gets the same prompts; the processes take turns (ABBA), one
running while the others wait. A turn times one generation of N tokens and one of a single token: their difference over N - 1 is
the decode time per token.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from harness import waiting
from harness.errors import BadInput, CellFailed, near
from harness.machine import environment, turn
from harness.signals import deaf_children
from harness.stats import intervals

Json = dict[str, Any]

OWN = "depthbench"
ENGINES = (OWN, "transformers", "transformers-static", "ctranslate2", "llamacpp")
_PAUSE_S = 0.3
"""Before every turn: idle OpenMP threads of the engine before spin for up to 0.2 s."""

_GRACE_S = 2
"""For a worker to end by itself; one in the middle of a turn is killed then."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: anything `load_model` takes.
        batch_sizes: rows decoded together.
        engines: some of `ENGINES`, `depthbench` among them.
        prompt_tokens: tokens of every prompt.
        new_tokens: tokens generated per row, 2 or more.
        repeats: turns of every engine.
        threads: CPU threads of every engine; None: one per physical core.
        dtype: of the weights.
        device: where they run.
        seed: of the prompts.
    """

    model: str = "opt-e2e-mini/full"
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    engines: tuple[str, ...] = ENGINES[:-1]
    prompt_tokens: int = 32
    new_tokens: int = 64
    repeats: int = 7
    threads: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.engines:
            if name not in ENGINES:
                raise BadInput(f"engines: {name!r} is not known; {near(name, ENGINES)}")
        for name, least in (("prompt_tokens", 1), ("new_tokens", 2), ("repeats", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name}: {getattr(self, name)} is out of range; give {least} or more")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise BadInput(f"batch: {list(self.batch_sizes)} is out of range; give 1 or more rows")
        if OWN not in self.engines:
            raise BadInput(f"engines: {OWN} must be among them, it is what the others are compared with")


def measure(settings: Settings) -> Json:
    """Run the comparison.

    Returns:
        A record: `settings`, `environment`, `rows` (one per batch size and engine: raw seconds, decode time per token, ratio to
        this engine with its interval, share of equal tokens, weights read per second), `profile` of this engine's decode step,
        `contests` of its kernels with torch's calls, `reading`: what the cores read per second, `ignored_settings`: what the
        checkpoint asks for and no engine does, `problems`.

    Raises:
        BadInput: a setting does not fit the model.
        CellFailed: this engine failed, or another run kept the machine for too long.
    """
    with turn.taken(settings.device, timed=True):
        return _measure(settings)


def _measure(settings: Settings) -> Json:
    threads = settings.threads or psutil.cpu_count(logical=False) or 1
    record: Json = {"settings": {**settings.__dict__, "threads": threads}, "environment": environment.fingerprint()}
    record.update(rows=[], profile={}, contests=[], reading=[], problems=[])
    workers: dict[str, _Worker] = {}
    try:
        for name in settings.engines:
            _say(f"{name}: loading {settings.model}")
            try:
                workers[name] = _Worker(name, settings, threads)
            except (BadInput, CellFailed) as error:
                if name == OWN:
                    raise
                record["problems"].append(f"{name}: {error}")
        sizes = workers[OWN].sizes
        record["ignored_settings"] = workers[OWN].said
        if record["ignored_settings"]:
            _say(f"{record['ignored_settings']}, in every engine")
        needed = settings.prompt_tokens + settings.new_tokens - 1
        if needed > sizes["max_positions"]:
            raise BadInput(
                f"new_tokens: {settings.new_tokens} after prompts of {settings.prompt_tokens} tokens needs {needed} positions, "
                f"{settings.model} has {sizes['max_positions']}"
            )
        for batch in settings.batch_sizes:
            _say(f"batch {batch}: choosing what runs it here")
            prompts = _prompts(settings, batch, sizes["vocabulary"])
            found = workers[OWN].ask("check", prompts, settings.new_tokens)
            record["contests"].append(found["contest"])
            record["reading"].append(found["reading"])
            if found["lost"]:
                record["problems"].append(f"{OWN}: {found['contest']['said']}")
            record["rows"] += _turns(workers, settings, batch, prompts, record["problems"])
            for row in record["rows"]:
                row.setdefault("weight_gb_per_s", sizes["step_bytes"] / row["decode_ms_per_token"] / 1e6)
            record["profile"][str(batch)] = workers[OWN].ask("profile", prompts, settings.new_tokens)
    finally:
        for worker in workers.values():
            worker.stop()
    return record


def _prompts(settings: Settings, batch: int, vocabulary: int) -> list[list[int]]:
    import random

    rng = random.Random(f"{settings.seed}-{batch}")
    return [[rng.randrange(2, vocabulary) for _ in range(settings.prompt_tokens)] for _ in range(batch)]


def _turns(
    workers: dict[str, _Worker], settings: Settings, batch: int, prompts: list[list[int]], problems: list[str]
) -> list[Json]:
    """One batch size: warm up, then take turns."""
    tokens: dict[str, list[list[int]]] = {}
    alive = dict(workers)
    for name, worker in workers.items():
        _say(f"batch {batch}: {name}, first generation")
        try:
            worker.ask("run", prompts, 1)
            tokens[name] = worker.ask("run", prompts, settings.new_tokens)[1]
        except CellFailed as error:
            if name == OWN:
                raise CellFailed(f"{name}, batch {batch}: {error}") from None
            problems.append(f"{name}, batch {batch}: {error}")
            del alive[name]
    whole: dict[str, list[float]] = {name: [] for name in alive}
    first: dict[str, list[float]] = {name: [] for name in alive}
    for repeat in range(settings.repeats):
        took = "" if not repeat else f", about {sum(map(sum, whole.values())) / repeat:.0f} s each"
        _say(f"batch {batch}: turn {repeat + 1} of {settings.repeats}{took}")
        for name in list(alive) if repeat % 2 == 0 else list(alive)[::-1]:
            time.sleep(_PAUSE_S)
            first[name].append(alive[name].ask("run", prompts, 1)[0])
            whole[name].append(alive[name].ask("run", prompts, settings.new_tokens)[0])
    return [_row(name, batch, settings, whole, first, tokens) for name in alive]


def _row(
    name: str,
    batch: int,
    settings: Settings,
    whole: dict[str, list[float]],
    first: dict[str, list[float]],
    tokens: dict[str, list[list[int]]],
) -> Json:
    def decode(engine: str) -> list[float]:
        return [max(w - f, 1e-9) / (settings.new_tokens - 1) for w, f in zip(whole[engine], first[engine], strict=True)]

    ratio = intervals.paired_ratio([decode(name)], [decode(OWN)])
    total = intervals.paired_ratio([whole[name]], [whole[OWN]])
    pairs = [
        (a, b) for mine, other in zip(tokens[name], tokens[OWN], strict=True) for a, b in zip(mine, other, strict=False)
    ]
    return {
        "engine": name,
        "batch_size": batch,
        "first_token_s": first[name],
        "whole_s": whole[name],
        "decode_ms_per_token": 1000 * statistics.fmean(decode(name)),
        "tokens_per_s": batch * settings.new_tokens / statistics.fmean(whole[name]),
        "decode_ratio": {"value": ratio.value, "low": _finite(ratio.low), "high": _finite(ratio.high)},
        "whole_ratio": {"value": total.value, "low": _finite(total.low), "high": _finite(total.high)},
        "equal_tokens": sum(a == b for a, b in pairs) / len(pairs),
    }


def _say(what: str) -> None:
    """A line of progress, beside the results."""
    print(f"baseline: {what}", file=sys.stderr, flush=True)
    waiting.heard()


def _finite(value: float) -> float | None:
    return value if value == value else None


def table(record: Json) -> list[tuple[str, ...]]:
    """Rows to print; a ratio above 1 says that this engine is the faster one."""
    head = (
        *("batch", "engine", "decode ms/token", "tokens/s", "weights GB/s"),
        *("decode: time / ours", "all: time / ours", "equal tokens"),
    )
    rows: list[tuple[str, ...]] = [head]
    for row in record["rows"]:
        ratios = [_ratio_text(row[key]) for key in ("decode_ratio", "whole_ratio")]
        rows.append(
            (
                str(row["batch_size"]),
                row["engine"],
                f"{row['decode_ms_per_token']:.2f}",
                f"{row['tokens_per_s']:.0f}",
                f"{row['weight_gb_per_s']:.1f}",
                *(("1", "1") if row["engine"] == OWN else ratios),
                f"{row['equal_tokens']:.1%}",
            )
        )
    return rows


def reading_line(record: Json) -> str:
    """What the cores read per second beside it, in one line."""
    found = record["reading"]
    if not found or found[0] is None:
        return ""
    memory, cache = (max(one[key] for one in found) for key in ("memory_gb_per_s", "cache_gb_per_s"))
    return f"the cores read {memory:.1f} GB/s from memory, {cache:.0f} GB/s from cache ({found[0]['threads']} threads)"


def _ratio_text(ratio: Json) -> str:
    ends = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return f"{ratio['value']:.2f}{ends}"


class _Worker:
    """An engine in a process of its own that answers one request at a time."""

    def __init__(self, name: str, settings: Settings, threads: int) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        arguments = (far, name, settings.model, settings.dtype, settings.device, threads)
        # Not a daemon: an engine may convert its weights in a process of its own. It ends when the pipe closes.
        self._process = context.Process(target=_serve, args=arguments)
        with deaf_children():
            self._process.start()
        far.close()
        try:
            self.sizes: dict[str, int]
            self.said: str
            self.sizes, self.said = self._receive()
        except BaseException:
            self.stop()
            raise

    def ask(self, what: str, prompts: Sequence[Sequence[int]], new_tokens: int) -> Any:
        """`run`: (seconds, tokens); `profile` and `check`: what the functions of `Own` say."""
        self._pipe.send((what, prompts, new_tokens))
        with waiting.told(f"baseline: {self._name} at work"):
            return self._receive()

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise CellFailed("its process died; out of memory?") from None
        if kind == "bad":
            raise BadInput(value)
        if kind == "failed":
            raise CellFailed(value)
        return value

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=_GRACE_S)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, name: str, model: str, dtype: str, device: str, threads: int) -> None:
    """Body of a worker: load, then answer until the pipe closes."""
    with contextlib.suppress(BrokenPipeError):  # the driver was stopped and waits for nobody
        _answer(pipe, name, model, dtype, device, threads)


def _answer(pipe: Connection, name: str, model: str, dtype: str, device: str, threads: int) -> None:
    try:
        engine = _engine(name, model, dtype, device, threads)
    except BadInput as error:
        pipe.send(("bad", str(error)))
        return
    except Exception as error:  # an engine that cannot run this model is left out, with its reason
        pipe.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
        return
    pipe.send(("ok", (engine.sizes, getattr(engine, "said", ""))))
    while True:
        try:
            what, prompts, new_tokens = pipe.recv()
        except EOFError:
            return
        try:
            if what in ("profile", "check"):
                pipe.send(("ok", getattr(engine, what)(prompts, new_tokens)))
                continue
            start = time.perf_counter()
            tokens = engine.run(prompts, new_tokens)
            pipe.send(("ok", (time.perf_counter() - start, tokens)))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def _engine(name: str, model: str, dtype: str, device: str, threads: int) -> Any:
    """The engine of a name; what it imports is imported here, in its own process."""
    if name == "ctranslate2":
        from harness.peers.ctranslate2 import CTranslate2

        return CTranslate2(model, dtype, device, threads)
    if name == "llamacpp":
        from harness.peers.llamacpp import LlamaCpp

        return LlamaCpp(model, dtype, device, threads)
    from harness.peers.engines import PEERS

    return PEERS[name](model, dtype, device, threads)

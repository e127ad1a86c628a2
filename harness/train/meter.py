"""What a training says while it runs, the curve of its losses, and what it cost."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from harness.files import write_atomically

EVERY_S = 5.0
"""Off a terminal a line is written at least so often, as far as a batch takes no longer."""
REDRAWN_S = 60.0
"""The picture is drawn again at saved steps, but no more often than this."""
TABLE, PICTURE = "loss.csv", "loss.svg"
_COLUMNS = ("stage", "step", "tokens", "seconds", "learning_rate", "loss", "validation_loss")

Point = dict[str, Any]


class Curve:
    """The losses of a training's stages, as a table and a picture in a folder, which are made anew whenever something is added.

    Args:
        folder: where both lie.
        title: of the picture.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self._folder, self._title = folder, title
        self._stages: dict[str, list[Point]] = {}

    def put(self, stage: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Take a stage's log entries so far, and write the table."""
        points: dict[int, Point] = {}
        for entry in history:
            if "loss" not in entry and "eval_loss" not in entry:
                continue
            point = points.setdefault(int(entry["step"]), {"stage": stage, "step": int(entry["step"])})
            point |= {key: entry[key] for key in ("tokens", "seconds", "learning_rate", "loss") if key in entry}
            if "eval_loss" in entry:
                point["validation_loss"] = entry["eval_loss"]
        self._stages[stage] = [points[step] for step in sorted(points)]
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(point for found in self._stages.values() for point in found)
        write_atomically(self._folder / TABLE, [text.getvalue()])

    def draw(self) -> None:
        """Draw the picture: a panel for each stage, training and validation loss by step."""
        import matplotlib
        from matplotlib.figure import Figure

        stages = {name: points for name, points in self._stages.items() if points}
        if not stages:
            return
        figure = Figure(figsize=(4.5 * len(stages), 3.2), layout="constrained")
        for axes, (name, points) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
            for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o--")):
                found = [(point["step"], point[key]) for point in points if key in point]
                if found:
                    axes.plot(*zip(*found, strict=True), style, markersize=3, linewidth=1, label=label)
            axes.set(xlabel=f"step of stage {name}", ylabel="loss, nats a token")
            axes.legend(frameon=False)
        figure.suptitle(self._title, fontsize=10)
        text = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": "depthbench"}):
            figure.savefig(text, format="svg", metadata={"Date": None})
        write_atomically(self._folder / PICTURE, [text.getvalue()])


class Meter(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Counts what a stage costs and tells how it goes; what was counted is saved with every step and goes on after a stop.

    Tokens are those the model ran over, prompts once for all their continuations, without padding. Seconds are wall time,
    validation and saving included; time spent on steps that a stop lost is not counted.

    Args:
        stage: name.
        curve: gets the log entries.
        speaks: this process writes lines and files.
        clock: seconds, rising.
        say: takes a line.
    """

    def __init__(
        self,
        stage: str,
        curve: Curve,
        speaks: bool,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.tokens = 0
        self._stage, self._curve, self._speaks, self._clock, self._say = stage, curve, speaks, clock, say
        self._before_s = 0.0
        self._began = self._last_line = self._drawn = clock()
        self._runs = True
        self._first = 0
        self._tokens_before = 0

    @property
    def seconds(self) -> float:
        """Wall time of the steps so far."""
        return self._before_s + (self._clock() - self._began if self._runs else 0.0)

    def state(self) -> dict[str, Any]:
        """What the Trainer saves with every step."""
        return {"args": {}, "attributes": {"tokens": self.tokens, "seconds": self.seconds}}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what the Trainer saved of its state."""
        counted = state.get("stateful_callbacks", {}).get(type(self).__name__, {}).get("attributes", {})
        self.tokens = self._tokens_before = int(counted.get("tokens", 0))
        self._before_s = float(counted.get("seconds", 0.0))

    def finished(self, state: Mapping[str, Any]) -> None:
        """Take a stage as it was saved at its end: its losses, and no time of now."""
        self._runs = False
        if self._speaks:
            self._curve.put(self._stage, state["log_history"])
            self._curve.draw()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time; after a resume the steps before are known."""
        self._began = self._last_line = self._drawn = self._clock()
        self._first = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give a sign of life where nothing was said for some time."""
        self._alive(state)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `on_step_end`."""
        self._alive(state)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `on_step_end`."""
        self._alive(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """One line per log entry, and the table of losses."""
        if not self._speaks or not logs:
            return
        if "loss" in logs:
            self._line(
                f"{self._where(state)} loss {logs['loss']:.4f} lr {logs['learning_rate']:.2e}{self._pace(state)}"
            )
        elif "eval_loss" in logs:
            self._line(f"{self._where(state)} validation loss {logs['eval_loss']:.4f}")
        self._curve.put(self._stage, state.log_history)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the curve again from time to time."""
        if self._speaks and self._clock() - self._drawn >= REDRAWN_S:
            self._curve.draw()
            self._drawn = self._clock()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write and draw the curve."""
        if self._speaks:
            self._curve.put(self._stage, state.log_history)
            self._curve.draw()

    def _alive(self, state: Any) -> None:
        if self._speaks and not sys.stderr.isatty() and self._clock() - self._last_line >= EVERY_S:
            self._line(f"{self._where(state)}{self._pace(state)}")

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        self._say(text)

    def _where(self, state: Any) -> str:
        return f"step {state.global_step}/{state.max_steps}"

    def _pace(self, state: Any) -> str:
        """Tokens a second and the time this stage still takes, both from the steps since the start or resume."""
        gone, done = self._clock() - self._began, state.global_step - self._first
        rate = f", {(self.tokens - self._tokens_before) / gone:.0f} tokens/s" if gone > 0 else ""
        return f"{rate}, {minutes(gone / done * (state.max_steps - state.global_step))} left" if done else rate


def minutes(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"

"""Every verb and every option, as typer has them, with what is wrong for each; an option that is added is covered by its type.

Nothing is computed: where a verb would begin to, `Computed` ends it. A wrong value must be refused before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from harness.cli.main import app

HUGE = "x" * 1_000_000
FOREIGN = "größe 漢字"
NOT_UTF8 = "\udcff\udcfe"

VERBS: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

NO_NAME = ("", " ", FOREIGN, HUGE, "-1", "nan", NOT_UTF8)
"""What is no name of anything."""
NO_COUNTS = ("", "0", "-1", "1,,2", "1.5", "nan", "x", FOREIGN, "99999999999999999999", "1" * 5000, NOT_UTF8)
NO_SPEC = (*NO_NAME, "fulll", "skipdecode(", "skipdecode(speedup)", "skipdecode(speedup=nan)", "skipdecode(speedup=1e999)",
           "skipdecode(speedup=2, speedup=3)", "skipdecode(sped=2)", "skipdecode(speedup='x')", "skipdecode(speedup=10**9)",
           "skipdecode(speedup=" + "9" * 5000 + ")", "skipdecode(speedup=" + "(" * 300 + ")", "skipdecode(speedup=[])")  # fmt: skip
NO_FILE_TO_WRITE = ("", "/proc/none/x.json", NOT_UTF8, "{file}", "{file}/x.json", "{folder}", "/dev/full/x.json",
                    "{folder}/" + "x" * 300 + ".json")  # fmt: skip
NO_FOLDER_TO_WRITE = ("", "/proc/none", NOT_UTF8, "{file}", "{file}/x", "/dev/full", "{folder}/" + "x" * 300)
NO_FOLDER = ("", "/no/such", "{file}", NOT_UTF8, "/dev/full", FOREIGN, "x" * 5000)
NO_RUN = (*NO_FOLDER, "{folder}")
IN_A_WORKER = ("", " ", NOT_UTF8)
"""Of models that only the process that measures loads."""
NO_SET = ("", "=", "repeats", "=1", "nope=1", FOREIGN, "repeats=x", "repeats=nan", "repeats=0", "repeats=[", HUGE, NOT_UTF8,
          "seed.x.y=1", "seed=.nan", "seed=1e999", "seed=2020-99-99", "seed: 1", "seed=!!python/object:os.system {}",
          "seed=" + "[" * 2000, "seed=&a [*a]", "description=[1]")  # fmt: skip

TEXTS: Mapping[str, tuple[str, ...]] = {
    "run suite": (*NO_NAME, "quikc", "{file}", "{folder}", "/dev/null", "{binary}"),
    "run --out": NO_FOLDER_TO_WRITE,
    "run --method": NO_SPEC,
    "run --checkpoints": NO_RUN,
    "run --set": (*NO_SET, "batch_sizes=[]", "tasks.9.limit=1", "tasks.0.limit=-1", "methods.0.lable=x", "device=tpu",
                  "methods=[full, full]", "model=", "tasks.0.name=é", f"title={HUGE}"),
    "report folders": NO_RUN,
    "report --out": ("", NOT_UTF8, "{file}/x", "/proc/none", "/dev/full/x.html", "{folder}/" + "x" * 300),
    "report --arms": NO_NAME,
    "report --batch": (*NO_COUNTS, "7"),
    "report --metric": NO_NAME,
    "compare before": NO_RUN,
    "compare after": NO_RUN,
    "compare --fail-if": (*NO_NAME, "speedup", "speedup drop > x", "speedup drop > nan%", "speedup drop > 5", "nope drop > 5%"),
    "compare --ignore": (*NO_NAME, "colour"),
    "trim run_folder": NO_RUN,
    "trim out": (*NO_FOLDER_TO_WRITE, "{folder}"),
    "list what": NO_NAME,
    "doctor --out": ("", NOT_UTF8),
    "new-method name": (*(name for name in NO_NAME if name != "nan"), "full", "class", "1st", "a-b", "a/b", "../a", "Über"),
    "check method": (*NO_SPEC, "{folder}/none.py:X", "{binary}:X", "mine.py"),
    "selfcheck suite": (*NO_NAME, "quick", "{file}", "{binary}"),
    "selfcheck --out": NO_FOLDER_TO_WRITE,
    "selfcheck --set": NO_SET,
    "generate prompt": ("", NOT_UTF8),
    "generate --model": (*NO_NAME, "/no/such", "{folder}", "opt-e2e-mini/none", "{binary}", "random:none", "x.gguf"),
    "generate --method": NO_SPEC,
    "score prompt": (NOT_UTF8,),
    "score continuation": ("", NOT_UTF8),
    "score --model": (*NO_NAME, "/no/such", "{folder}"),
    "score --method": NO_SPEC,
    "baseline --model": IN_A_WORKER,
    "baseline --batch": NO_COUNTS,
    "baseline --engines": (*NO_NAME, "transformers", "depthbench,", "depthbench,depthbench", "depthbench,nope"),
    "baseline --out": NO_FILE_TO_WRITE,
    "lm-eval --model": NO_NAME,
    "lm-eval --method": NO_SPEC,
    "scoring-agreement --model": NO_NAME,
    "scoring-agreement --out": NO_FILE_TO_WRITE,
    "scoring-speed --model": NO_NAME,
    "scoring-speed --method": NO_SPEC,
    "scoring-speed --tasks": (NOT_UTF8,),
    "scoring-speed --out": NO_FILE_TO_WRITE,
    "train recipe": (*NO_NAME, "nope", "{file}", "{folder}", "{binary}", "/dev/null"),
    "train --out": NO_FOLDER_TO_WRITE,
    "train --model": (*NO_NAME, "/no/such", "{folder}"),
    "train --task": NO_NAME,
    "train --set": ("nope=1", "seed=x", "seed=.nan", "stages.weights.steps=0", "stages.weights.learning_rate=.inf", "dtype=x",
                    "options=[1]", "data=[]", "weight_decay=.nan", "stages.nope.steps=1", "seed=99999999999999999999999"),
    "tune method": NO_SPEC,
    "tune --out": NO_FILE_TO_WRITE,
    "tune --model": (*NO_NAME, "/no/such"),
    "tune --task": NO_NAME,
    "tune --metric": NO_NAME,
    "tune --try": (*NO_NAME, "speedup", "speedup=", "speedup=x", "speedup=nan", "nope=1", "=1", "speedup=,", "speedup=0"),
    "tune --budget": ("", "nan", "inf", "-1", "0", "1.5", "x", FOREIGN, "1e999"),
    "tune --baseline": IN_A_WORKER,
    "profile method": NO_SPEC,
    "profile --out": NO_FILE_TO_WRITE,
    "profile --model": (*NO_NAME, "/no/such"),
    "profile --task": NO_NAME,
    "profile --metric": NO_NAME,
    "profile --text": NO_FOLDER,
    "calibrate method": (*NO_SPEC, "full"),
    "calibrate --out": NO_FILE_TO_WRITE,
    "calibrate --model": (*NO_NAME, "/no/such"),
    "calibrate --task": NO_NAME,
    "calibrate --metric": NO_NAME,
    "calibrate --promise": (*NO_NAME, "textual", "textual:", "textual:nan", "textual:0", "textual:2", "nope:0.1", ":0.1"),
    "calibrate --try": (*NO_NAME, "threshold", "threshold=x", "nope=1"),
}  # fmt: skip
"""What is wrong for an option of plain text or a place, by verb and name. An option of another type needs no line."""


def cases(verb: str) -> Iterator[tuple[Any, str, str]]:
    """Option or argument, the name of its line in TEXTS, and one wrong value, for every one of a verb."""
    for param in VERBS[verb].params:
        if param.name == "help" or getattr(param, "is_flag", False):
            continue
        name = f"{verb} {longest(param)}"
        for value in wrong(param, name):
            yield param, name, value


def longest(param: Any) -> str:
    """An option as it is written first in its help, an argument by its name."""
    return str(next((one for one in param.opts if one.startswith("--")), param.opts[0]))


def wrong(param: Any, name: str) -> tuple[str, ...]:
    """What an option must refuse, by its type; of texts and places what TEXTS says, KeyError where it says nothing."""
    kind = param.type_descriptor
    if kind.is_choice:
        return NO_NAME
    if name.endswith((" --data", " --include-path")):
        return NO_FOLDER
    if name.endswith(" --device"):
        return (*NO_NAME, "tpu", "cuda:", "cuda:x", "cuda:9999")
    if kind.annotation in (int, "int"):
        low, high = kind.parameter_info.min, kind.parameter_info.max
        assert low is not None and high is not None, f"{name}: say which counts it takes (`count` in harness.cli.app)"
        return ("", str(low - 1), str(high + 1), "-9" * 1, "1.5", "nan", "x", FOREIGN, "1" * 5000, NOT_UTF8)
    if kind.annotation in (float, "float"):
        return ("", "nan", "inf", "-inf", "-1", "x", FOREIGN, "1e999", NOT_UTF8)
    return TEXTS[name]


class Computed(BaseException):
    """A verb would have computed now."""


def computes(*_: Any, **__: Any) -> Any:
    """Stands where computing begins."""
    raise Computed


Place = Callable[[Path], str]

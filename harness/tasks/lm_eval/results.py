"""Results in lm-eval's own formats: where they go, tried before anything is computed, and how they are written.

`results_<date>.json` has what lm-eval's own tracker writes, so its tools read it; a number that is not finite is null there (`N/A`
for a standard error), since JSON has no other. `samples_<task>_<date>.jsonl` has a document on each line.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lm_eval.loggers.evaluation_tracker import GeneralConfigTracker
from lm_eval.utils import handle_non_serializable, sanitize_list, sanitize_model_name

from harness.errors import BadInput
from harness.files import clear_errors, write_atomically

Json = dict[str, Any]

DEFAULT_FOLDER = "lm-eval-results"
"""Where results go if no place is named."""
_LONGEST = 120
"""Bytes of the part of a file's name that users choose: names of 255 are allowed, and date, kind and ending need some."""
_LARGE = 1e6


def short(name: str) -> str:
    """A name as part of a file's name: without what separates paths; a long one is cut and ends in its digest."""
    clean = str(sanitize_model_name(name)).replace("\0", "__")
    if clean in (".", ".."):
        clean = f"_{clean}"
    raw = clean.encode("utf-8", "backslashreplace")
    if len(raw) <= _LONGEST:
        return raw.decode()
    return f"{raw[: _LONGEST - 13].decode('utf-8', 'ignore')}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:12]}"


@dataclass(frozen=True)
class Place:
    """Where one method's results go.

    Attributes:
        folder: of all files.
        results: of the results.
        date: in the files' names.
    """

    folder: Path
    results: Path
    date: str

    @staticmethod
    def tried(path: Path | None, name: str, several: bool = False) -> Place:
        """The place of the results of `name`; BadInput where no file can be made there.

        Args:
            path: folder, or a file that ends in .json; None: the default folder.
            name: of model and method.
            several: results of other methods go to the same path.
        """
        date = datetime.now().isoformat().replace(":", "-")
        given = path or Path(DEFAULT_FOLDER)
        if given.suffix == ".json":
            folder, stem = given.parent, f"{short(given.stem)}_{short(name)}" if several else short(given.stem)
            place = Place(folder, folder / f"{stem}_{date}.json", date)
        else:
            folder = given / short(name)
            place = Place(folder, folder / f"results_{date}.json", date)
        if path is not None and not str(path).strip():
            raise BadInput("output_path: is empty; name a folder or a .json file")
        try:
            with clear_errors(folder, "output_path"):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"output_path: {str(path)!r} is no path ({error}); name a folder") from None
        return place

    def samples(self, task: str) -> Path:
        """The file of a task's samples."""
        return self.folder / f"samples_{short(task)}_{self.date}.jsonl"


def tracked(model: str, method: str, settings: Mapping[str, Any]) -> GeneralConfigTracker:
    """lm-eval's own record of an evaluation's settings; its clock starts.

    Args:
        model: what is evaluated.
        method: under which method.
        settings: of `GeneralConfigTracker.log_experiment_args`.
    """
    tracker = GeneralConfigTracker()
    tracker.log_experiment_args(model_source="depthbench", model_args={"pretrained": f"{model}, {method}"}, **settings)
    return tracker


def write(place: Place, results: Json, tracker: GeneralConfigTracker, log_samples: bool) -> None:
    """Write results, and where wanted samples.

    Raises:
        BadInput: the files cannot be written.
    """
    tracker.log_end_time()
    kept = {key: value for key, value in results.items() if key != "samples"}
    with clear_errors(place.folder, "output_path"):
        write_atomically(place.results, [_text({**kept, **asdict(tracker)}, indent=2)])
        for task, rows in results["samples"].items() if log_samples else ():
            write_atomically(place.samples(task), [_text(_sample(row)) for row in rows])


def _sample(row: Mapping[str, Any]) -> Json:
    given = {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(arguments)}
        for i, arguments in enumerate(row["arguments"])
    }
    answers = {key: sanitize_list(row[key]) for key in ("resps", "filtered_resps")}
    return {**row, **answers, "arguments": given, "target": str(row["target"])}


def _text(record: Any, **settings: Any) -> str:
    plain = finite(json.loads(json.dumps(record, default=handle_non_serializable)))
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, **settings) + "\n"


def finite(value: Any, key: str = "") -> Any:
    """A JSON value with null, or `N/A` for a standard error, in the place of every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return "N/A" if "_stderr" in key else None
    if isinstance(value, dict):
        return {name: finite(inner, name) for name, inner in value.items()}
    return [finite(inner, key) for inner in value] if isinstance(value, list) else value


class _Large(float):
    """A number that lm-eval's table, which gives four decimals, shows as a power of ten."""

    def __format__(self, spec: str) -> str:
        return f"{float(self):.3e}"


def shown(results: Json) -> Json:
    """The results as lm-eval's table prints them well: numbers of a million and more as powers of ten."""

    def number(value: Any) -> Any:
        return _Large(value) if isinstance(value, float) and abs(value) >= _LARGE else value

    tables = {
        name: {task: {key: number(value) for key, value in row.items()} for task, row in results[name].items()}
        for name in ("results", "groups")
        if results.get(name)
    }
    return {**results, **tables}

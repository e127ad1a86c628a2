"""Methods of one's own: from a file, a module or a package, wherever a name is; typed parameters; what `new-method` writes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import methods
from harness.cli import main as cli
from harness.errors import BadInput
from harness.outside import absolute
from harness.parameters import typed
from harness.run import contract
from harness.suites.entries import MethodEntry
from harness.suites.suite import load_suite
from harness.tasks.lm_eval import MethodLM
from methods import _template
from tests.tasks.lm_eval.fixtures import likelihoods, model

MINE = """{future}
import enum
from dataclasses import dataclass
from typing import Literal, Optional

from harness.method import Schedule
from harness.plan import LayerPlan


class Side(enum.Enum):
    low = 1
    high = 2


@dataclass(frozen=True)
class Mine(Schedule):
    after: int = 1
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    side: Side = Side.low
    some: tuple[int, ...] = ()
    pair: Optional[tuple[int, str]] = None
    either: int | str = 0
    on: bool = False

    def layers(self, step, prompt_length, depth):
        return LayerPlan.of(range(self.after), depth)


@dataclass(frozen=True)
class Unfinished(Schedule):
    after: int = 1


class Plain(Mine):
    more: int = 1


@dataclass(frozen=True)
class Required(Mine):
    needed: int

    def __post_init__(self):
        raise ValueError("no luck")
""".replace("class Required(Mine):\n    needed: int", "class Required(Mine):\n    needed: int = 1")


@pytest.fixture(params=["", "from __future__ import annotations"], ids=["types", "text"])
def mine(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(future=request.param))
    return path


def test_parameters_are_typed_as_the_class_says(mine: Path) -> None:
    spec = f"{mine}:Mine(after=2.0, share=1, kind=b, side=high, some=[1, 2], pair=(3, 'x'), either=two, on=True)"
    made = methods.create(spec)
    shown = {name: value for name, value in made.params.items()}
    assert shown == {"after": 2, "share": 1.0, "kind": "b", "side": "high", "some": (1, 2), "pair": (3, "x"),
                     "either": "two", "on": True}  # fmt: skip
    assert isinstance(made.params["share"], float) and type(made).__name__ == "Mine"
    assert methods.create(str(made)) == made
    assert methods.create(f"{mine}:Mine", either=3).params["either"] == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Mine(after=x)", "mine.py:Mine: after='x' is of the wrong type; give int"),
        ("Mine(after=1.5)", "after=1.5 is of the wrong type; give int"),
        ("Mine(on=1)", "on=1 is of the wrong type; give bool"),
        ("Mine(kind=c)", "kind='c' is out of range; one of a, b"),
        ("Mine(side=middle)", "side='middle' is out of range; one of low, high"),
        ("Mine(some=3)", "some=3 is of the wrong type; give (int, ...)"),
        ("Mine(some=(1, 'x'))", "some=(1, 'x') is of the wrong type; give int"),
        ("Mine(pair=(1,))", "pair=(1,) is of the wrong type; give (int, str)"),
        ("Mine(aftr=1)", "no parameter named 'aftr'; did you mean 'after'?"),
        ("Nine", "has no class 'Nine' that derives Schedule, Gate, Exit or Draft of harness.method; it has Side, Mine"),
        ("Unfinished", "does not define layers()"),
        ("Plain", "has parameters but is no dataclass; write @dataclass(frozen=True)"),
        ("Required(needed=2)", "mine.py:Required: ValueError: no luck"),
    ],
)
def test_what_does_not_fit_names_the_field(mine: Path, given: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        methods.create(f"{mine}:{given}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_type_no_parameter_can_have_is_refused() -> None:
    import dataclasses

    made = dataclasses.make_dataclass("Made", [("table", dict[str, int], dataclasses.field(default_factory=dict))])
    made.__module__ = __name__
    with pytest.raises(BadInput, match="Made: table is declared as dict; a parameter is a bool"):
        typed(made, "Made", {"table": {}})
    bare = dataclasses.make_dataclass("Bare", [("needed", int)])
    with pytest.raises(BadInput, match=r"needed has no default; write Bare\(needed=...\)"):
        typed(bare, "Bare", {})


def test_an_edited_file_is_another_method(mine: Path) -> None:
    before = methods.create(f"{mine}:Mine")
    assert methods.create(f"{mine}:Mine") == before
    mine.write_text(mine.read_text() + "\n# edited\n")
    after = methods.create(f"{mine}:Mine")
    assert after != before and after.source is not None and before.source is not None
    assert after.source.sha256 != before.source.sha256 and after.source.text.endswith("# edited\n")


def test_modules_and_what_packages_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "authored").mkdir()
    (tmp_path / "authored" / "__init__.py").touch()
    (tmp_path / "authored" / "skips.py").write_text(MINE.format(future=""))
    offer = tmp_path / "authored-1.dist-info"
    offer.mkdir()
    (offer / "METADATA").write_text("Metadata-Version: 2.1\nName: authored\nVersion: 1\n")
    (offer / "entry_points.txt").write_text(
        "[depthbench.methods]\nauthored_mine = authored.skips:Mine\nauthored_gone = authored.none:Mine\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    by_module = methods.create("authored.skips:Mine(after=2)")
    assert str(by_module) == "authored.skips:Mine(after=2)" and by_module.source is not None
    assert by_module.source.file == "skips.py" and "class Mine" in by_module.source.text
    assert methods.names()[-2:] == ["authored_gone", "authored_mine"]
    assert str(methods.create("authored_mine(after=3)")) == "authored_mine(after=3)"
    listed = CliRunner().invoke(cli.app, ["list", "methods"])
    assert listed.exit_code == 0 and "authored_mine" in listed.output and "cannot be imported" in listed.output
    with pytest.raises(BadInput, match="did you mean 'authored_mine'"):
        methods.create("authored_min")


def test_a_suite_finds_a_file_beside_itself(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suite.yaml").write_text(
        "model: m\nprompt_tokens: 4\nbatch_sizes: [1]\n"
        "methods: [full, 'mine.py:Mine(after=2)', {name: 'mine.py:Mine', label: Mine, after: 3}]\n"
    )
    suite = load_suite(tmp_path / "suite.yaml")
    assert [entry.title for entry in suite.methods] == ["full", "mine.py:Mine(after=2)", "Mine"]
    assert suite.methods[1].name == suite.methods[2].name == f"{mine}:Mine"
    monkeypatch.chdir(tmp_path)
    assert MethodEntry.model_validate("mine.py:Mine").name == f"{mine}:Mine" == absolute("mine.py:Mine")
    given = load_suite("quick", ["new_tokens=2"], ["mine.py:Mine(after=2)"])
    assert [entry.title for entry in given.methods] == ["Full model", "mine.py:Mine(after=2)"]
    with pytest.raises(BadInput, match=r"methods.1.aftr: .* mine.py:Mine; did you mean 'after'"):
        load_suite("quick", [], ["mine.py:Mine(aftr=2)"])


@pytest.mark.parametrize("family", _template.FAMILIES)
def test_what_new_method_writes_passes_check_as_it_is(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(cli.app, ["new-method", "my_own", "--family", family])
    assert said.exit_code == 0 and "depthbench check my_own.py:MyOwn" in said.output
    made = methods.create("my_own.py:MyOwn")
    assert made.family == family and made.name == "my_own"
    found = {result.check: result.error for result in contract.check(made, models=("llama",))}
    exact = found.pop("exact: the full model's tokens")
    assert set(found.values()) == {""} and exact == ("" if family == "draft" else None)
    again = CliRunner().invoke(cli.app, ["new-method", "my_own"])
    assert isinstance(again.exception, BadInput) and "is there already" in str(again.exception)


def test_lm_eval_takes_it_and_knows_its_text(mine: Path) -> None:
    lm = MethodLM(model("opt"), f"{mine}:Mine(after=6)")
    before = lm.cache_name()
    assert lm.identity()["code"] == methods.create(f"{mine}:Mine").source.sha256  # type: ignore[union-attr]
    mine.write_text(mine.read_text() + "\n# edited\n")
    assert MethodLM(model("opt"), f"{mine}:Mine(after=6)").cache_name() != before, (
        "a cache of the other text is not its own"
    )


@pytest.mark.parametrize("page", ["README.md", "methods/README.md"])
def test_the_example_of_a_page_is_a_method_that_passes(page: str, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (block,) = (each for each in blocks if re.search(r"^class \w+\((Schedule|Exit|Gate|Draft)\)", each, re.MULTILINE))
    assert len(block.splitlines()) <= 45
    (tmp_path / "mine.py").write_text(block)
    name = str(re.findall(r"^class (\w+)", block, re.MULTILINE)[0])
    made = methods.create(f"{tmp_path}/mine.py:{name}")
    assert not [result for result in contract.check(made, models=("opt", "gpt_neox")) if result.error]
    given = re.findall(rf"--method '?mine.py:({name}\(.*?\))'", text)
    assert all(methods.create(f"{tmp_path}/mine.py:{spec}") for spec in given)
    lm = MethodLM(model("opt"), f"{tmp_path}/mine.py:{name}", batch_size=2)
    assert len(lm.loglikelihood(likelihoods([("The quick", " brown fox"), ("Question:", " how many eggs")]))) == 2

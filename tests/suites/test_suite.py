"""A suite says what is run; a mistake in it is one clear line before anything is measured, never a guess."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.errors import BadInput
from harness.run.sweep import run_suite
from harness.suites.entries import MethodEntry
from harness.suites.suite import Suite, check_tasks, load_suite, read_suite, suite_names

MINIMAL = """
model: opt-e2e-mini
methods:
  - full
  - skipdecode(speedup=2)
  - {name: calm, label: CALM 0.9, checkpoint: opt-e2e-mini/calm-700, confidence: softmax, threshold: 0.9}
batch_sizes: [1, 8]
tasks: [restaurants]
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def refused(path: Path | str, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_suite(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def arms(suite: Suite) -> dict[str, tuple[str, str]]:
    return {entry.title: (entry.spec, suite.checkpoint(entry).removeprefix("opt-e2e-mini/")) for entry in suite.methods}


def test_entries_in_every_form(minimal):
    suite = load_suite(minimal)
    assert suite.name == "mine"
    assert [(e.name, e.label, e.checkpoint, e.parameters) for e in suite.methods] == [
        ("full", None, None, {}),
        ("skipdecode", None, None, {"speedup": 2}),
        ("calm", "CALM 0.9", "opt-e2e-mini/calm-700", {"confidence": "softmax", "threshold": 0.9}),
    ]
    assert (suite.tasks[0].name, suite.tasks[0].split, suite.tasks[0].limit) == ("restaurants", "test", None)
    assert suite.checkpoint(suite.methods[1]) == "opt-e2e-mini"
    assert [suite.default_label(entry) for entry in suite.methods] == [
        "full",
        "skipdecode(speedup=2)",
        "calm(confidence=softmax, threshold=0.9)",
    ]


def test_defaults(minimal):
    suite = load_suite(minimal)
    assert (suite.prompt_tokens, suite.max_new_tokens, suite.threads, suite.expected_tokens) == (None,) * 4
    assert (suite.dtype, suite.device, suite.processes, suite.repeats, suite.prompt_sets) == (
        "float32",
        "cpu",
        5,
        10,
        1,
    )
    assert suite.memory is True


def test_a_suite_is_frozen(minimal):
    with pytest.raises(ValidationError):
        load_suite(minimal).repeats = 1


def test_what_run_json_holds_reads_back(minimal):
    """The resolved suite in run.json must be the suite, labels included."""
    suite = load_suite(minimal)
    again = Suite.model_validate(suite.plain())
    assert again.plain() == suite.plain()
    assert arms(again) == arms(suite)


@pytest.mark.parametrize("value", ["softmax", "none", "class", "two words", "a, b=1", "", 2, 0.5, True, None])
def test_a_spec_reads_back(value):
    """The spec names the arm in every worker process; what it cannot express would run another method there."""
    entry = MethodEntry(name="m", parameters={"key": value})
    assert MethodEntry.model_validate(entry.spec).parameters == {"key": value}


def test_overrides(minimal):
    suite = load_suite(
        minimal,
        [
            "batch_sizes=[1, 4]",
            "methods.1.speedup=3",
            "tasks.0.limit=24",
            "dtype=bfloat16",
            "device=cuda:1",
            "memory=false",
        ],
    )
    assert suite.batch_sizes == (1, 4)
    assert suite.methods[1].spec == "skipdecode(speedup=3)"
    assert (suite.tasks[0].name, suite.tasks[0].limit) == ("restaurants", 24)
    assert (suite.dtype, suite.device, suite.memory) == ("bfloat16", "cuda:1", False)
    assert load_suite(minimal, ["limits.noisy_share=0.2"]).limits.noisy_share == 0.2, "mappings are made on the way"
    assert load_suite(minimal, ["threads=2", "threads=null"]).threads is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch_size=[1]", "did you mean 'batch_sizes'?"),
        ("methods.9.speedup=3", "they count from 0 to 2"),
        ("repeats", "write key=value"),
        ("limits.noisy_shar=0.2", "did you mean 'noisy_share'?"),
        ("limits={noisy_share: 0.1, noisy_share: 0.2}", "the key 'noisy_share' is given twice"),
        ("model.x=1", "model: is 'opt-e2e-mini', which has no keys of its own"),
        ("batch_sizes=[1", "not valid YAML"),
        ("batch_sizes=[0]", "batch_sizes.0: 0 is out of range; 1 or more"),
        ("batch_sizes=[]", "batch_sizes: is empty"),
        ("batch_sizes=[1, 1]", "batch size 1"),
        ("batch_sizes=8", "a list"),
        ("methods=[]", "methods: is empty"),
        ("methods=[calm]", "no entry is 'full'"),
        ("methods=[full, full]", "label 'full' stands at 0 and at 1"),
        ("methods=['skipdecode(speedup=2']", "cannot be read"),
        ("methods=[full, {name: 'calm(threshold=1)', threshold: 2}]", "threshold is given twice"),
        ("tasks=[]", "tasks: none is given"),
        ("tasks.0.limt=4", "did you mean 'limit'?"),
        ("tasks.0.split=tst", "did you mean 'test'?"),
        ("dtype=float23", "did you mean 'float32'?"),
        ("device=gpu", "give cpu, cuda or cuda:N"),
        ("repeats=0", "1 or more"),
        ("repeats=2.5", "a whole number"),
        ("processes=true", "a whole number"),
        ("memory=maybe", "true or false"),
        ("new_tokens=1", "2 or more"),
        ("warmup=0", "1 or more"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_is_right(minimal, override, said):
    text = refused(minimal, override)
    assert said in text
    assert override.partition("=")[0].split(".")[0] in text


def test_a_wrong_file_is_named_with_its_key(tmp_path):
    path = tmp_path / "mine.yaml"
    for content, said in [
        (MINIMAL + "repeat: 3\n", "repeat: unknown key; did you mean 'repeats'?"),
        (MINIMAL + "tasks: [e2e]\n", "line 9: the key 'tasks' is given twice"),
        (MINIMAL.replace("model: opt-e2e-mini\n", ""), "model: is missing"),
        ("", "is empty"),
        ("- full\n", "is not a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ]:
        path.write_text(content)
        text = refused(path)
        assert str(path) in text
        assert said in text
    path.write_bytes(b"name: \xff\n")
    assert "not UTF-8" in refused(path)


def test_names_that_do_not_exist(tmp_path):
    assert "did you mean 'quick'?" in refused("quik")
    assert "known: " in refused("zzzzzzzz")
    assert "there is no file" in refused(tmp_path / "none.yaml")


def test_few_repeats_are_allowed(minimal):
    """Fewer than 5 give no verdict, but a look at one repeat is still a run."""
    assert load_suite(minimal, ["repeats=1"]).repeats == 1


def test_quick():
    suite = load_suite("quick")
    expected = {f"SkipDecode {x}x": (f"skipdecode(speedup={x})", "skipdecode-700") for x in (2, 3, 4, 5)} | {
        "Full model": ("full", "full-700"),
        "Full model (SkipDecode weights)": ("full", "skipdecode-700"),
        "Full model (CALM weights)": ("full", "calm-700"),
        "CALM softmax 0.5": ("calm(confidence=softmax, threshold=0.5)", "calm-700"),
        "CALM softmax 0.9": ("calm(confidence=softmax, threshold=0.9)", "calm-700"),
        "CALM state 0.98": ("calm(confidence=state, threshold=0.98)", "calm-700"),
        "CALM classifier 0.8": ("calm(confidence=classifier, threshold=0.8)", "calm-700"),
        "Fixed exit 12": ("fixed_exit(budget=12)", "calm-700"),
        "Random skip 12": ("random_skip(budget=12)", "skipdecode-700"),
        "SkipDecode 2x (schedule only)": ("skipdecode(speedup=2)", "full-700"),
        "LayerSkip 6+4": ("layerskip(exit_layer=6, draft_tokens=4)", "calm-700"),
    }
    assert arms(suite) == expected
    assert (suite.batch_sizes, suite.new_tokens, suite.processes, suite.repeats) == ((1, 8, 32), 24, 1, 5)


def test_smoke():
    suite = load_suite("smoke")
    assert set(arms(suite)) == {"Full model", "CALM softmax 0.5", "SkipDecode 2x"}
    assert (suite.batch_sizes, suite.new_tokens, suite.repeats, suite.tasks[0].limit) == ((1, 4), 12, 5, 24)


def test_the_mini_suite_scores_the_whole_official_test_set():
    suite = load_suite("skipdecode-mini")
    assert [(t.name, t.split, t.limit) for t in suite.tasks] == [("e2e", "test", None)]
    assert suite.batch_sizes == (1, 8, 32) and len(suite.methods) == 27
    ran = set(arms(suite).values())
    assert {("full", w) for w in ("full-700", "skipdecode-700", "calm-700")} <= ran
    for weights in ("skipdecode-700", "full-700"):  # trained, and schedule only
        assert {(f"skipdecode(speedup={x})", weights) for x in (2, 3, 4, 5)} <= ran
    for measure in ("softmax", "state", "classifier"):
        assert sum(spec.startswith(f"calm(confidence={measure}") and w == "calm-700" for spec, w in ran) >= 3
    assert {(f"fixed_exit(budget={x})", "calm-700") for x in (5, 12)} <= ran
    assert any(spec.startswith("random_skip") for spec, _ in ran)


@pytest.mark.parametrize("name", suite_names())
def test_every_bundled_suite_can_give_verdicts(name):
    suite = load_suite(name)
    assert suite.description
    assert suite.methods[0].name == "full"
    assert suite.repeats * suite.processes >= 5


NEITHER = "neither a key of an entry nor a parameter of"
WRONG_ENTRIES = [
    ("{name: calm, lable: x}", f"methods.1.lable: {NEITHER} calm; did you mean 'label'?"),
    ("{name: calm, treshold: 0.5}", f"methods.1.treshold: {NEITHER} calm; did you mean 'threshold'?"),
    ("{name: full, quack: 1}", f"methods.1.quack: {NEITHER} full; it takes no parameters"),
    ("{name: calm, parameters: {chekpoint: a}}", f"methods.1.chekpoint: {NEITHER} calm; did you mean 'checkpoint'?"),
    ("'skipdecode(sped=2)'", f"methods.1.sped: {NEITHER} skipdecode; did you mean 'speedup'?"),
    ("calmm", "methods.1: method: no method named 'calmm'; did you mean 'calm'?"),
    ("{name: calm, threshold: 1.2}", "methods.1: calm: threshold=1.2 is out of range"),
    ("{name: calm, threshold: high}", "methods.1: calm: threshold='high' is of the wrong type; give float"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "said"), WRONG_ENTRIES)
def test_a_wrong_method_entry_is_named_by_file_place_and_key(tmp_path, entry, said):
    """A key nobody knows became a parameter, and failed late, without the file and the entry it stands in."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL.replace("skipdecode(speedup=2)", entry))
    assert refused(path).startswith(f"{path}: {said}")
    path.write_text(MINIMAL)
    assert refused(path, f"methods.1={entry}").startswith(f"{path} with --set: {said}")


def test_one_made_in_python_is_refused_before_anything_is_measured(tmp_path):
    suite = read_suite("smoke").model_copy(
        update={"methods": (MethodEntry(name="full"), MethodEntry(name="calm", lable="x"))}
    )
    with pytest.raises(BadInput, match=r"suite smoke: methods\.1\.lable: .*did you mean 'label'\?"):
        run_suite(suite, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_reading_a_suite_needs_no_torch():
    code = (
        "import sys; from harness.suites.suite import read_suite; read_suite('quick'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_that_are_not_known():
    suite = load_suite("smoke")
    check_tasks(suite, ["restaurants"])
    with pytest.raises(
        BadInput, match=r"suite smoke: tasks\.0: 'restaurants' is not known; did you mean 'restaurant'\?"
    ):
        check_tasks(suite, ["restaurant"])

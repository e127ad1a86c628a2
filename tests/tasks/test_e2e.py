"""E2E files and slot forms."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from harness import tasks
from harness.errors import BadInput
from harness.tasks.e2e_slots import states

ROWS = (
    "mr,ref\r\n"
    '"name[The  Mill], food[English]","The Mill is\n  English."\r\n'
    '"name[Zizzi]",Zizzi is a pub.\r\n'
    '"name[The Mill], food[English]","Try The Mill, English food."\r\n'
)


def test_references_are_grouped_and_white_space_collapsed(tmp_path: Path) -> None:
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e" / "test.csv").write_bytes(ROWS.encode())
    first, second = tasks.create("e2e", tmp_path).examples("test")
    assert first.id == "e2e-test-0000" and first.prompt == "name[The Mill], food[English]\n"
    assert first.references == ("The Mill is English.", "Try The Mill, English food.")
    assert first.slots == (("name", "The Mill"), ("food", "English"))
    assert second.references == ("Zizzi is a pub.",)
    assert len(tasks.create("e2e", tmp_path).examples("test", 1)) == 1


def test_official_names_and_gzip_are_found(tmp_path: Path) -> None:
    (tmp_path / "trainset.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    assert len(tasks.create("e2e", tmp_path).examples("train")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"mr,text\nx,y\n", "line 1: no column 'ref'"),
        (b"mr,ref\n", "has a header but no rows"),
        (b"mr,ref\nname[A],A.\nname[B]\n", "line 3: 1 fields"),
        (b"mr,ref\nname[A],\n", "line 2"),
        (b"mr,ref\nname[A],caf\xe9\n", "line 2: not UTF-8"),
        (b"mr,ref\nname A,A.\n", "slot[value]"),
    ],
)
def test_malformed_files_are_refused_with_their_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        tasks.create("e2e", tmp_path).examples("test")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no validation file"):
        tasks.create("e2e", tmp_path).examples("validation")


def test_unknown_tasks_and_splits(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'restaurants'"):
        tasks.create("restaurant")
    with pytest.raises(BadInput, match="split"):
        tasks.create("e2e", tmp_path).examples("dev")


@pytest.mark.parametrize(
    ("slot", "value", "text", "stated"),
    [
        ("familyFriendly", "yes", "a family-friendly pub", True),
        ("familyFriendly", "yes", "It is not family friendly", False),
        ("familyFriendly", "no", "It is not a good place to take kids, not kid friendly", True),
        ("familyFriendly", "no", "Children are welcome", False),
        ("familyFriendly", "no", "an adults only venue", True),
        ("priceRange", "less than £20", "meals under £20", True),
        ("priceRange", "more than £30", "cheap food", False),
        ("priceRange", "£20-25", "between £20 and £25", True),
        ("customer rating", "5 out of 5", "rated five out of five", True),
        ("customer rating", "1 out of 5", "with 3 out of 5 stars", False),
        ("customer rating", "low", "customers rate it poorly", True),
        ("area", "riverside", "by the river", True),
        ("area", "city centre", "in the city center", True),
        ("eatType", "coffee shop", "a coffee-shop", True),
        ("food", "Fast food", "serving fast food", True),
        ("near", "Café Rouge", "close to the Café Rouge", True),
        ("name", "The Mill", "The Windmill", False),
    ],
)
def test_slot_forms(slot: str, value: str, text: str, stated: bool) -> None:
    assert states(slot, value, text) is stated


def test_official_data_when_it_is_there() -> None:
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (data / "e2e" / "test.csv").is_file():
        pytest.skip("official E2E files are not here (looked in ../shared/data/e2e)")
    task = tasks.create("e2e", data)
    assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [4862, 547, 630]
    assert sum(len(e.references) for e in task.examples("test")) == 4693

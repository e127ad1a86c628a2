"""Foreign text is shown, not obeyed; numbers keep their decimals; what was not measured is never a zero."""

from __future__ import annotations

import math

import pytest

from reports.text import BYTES, clean, decimals_for, fixed, label, listed, scaled, signed, span


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\x00b\x1b[31m", "a␀b␛[31m"),
        ("\x7f\x85", "␡\ufffd"),
        ("abc\u202edef", "abc⟨U+202E⟩def"),
        ("\u2066x\u2069\u200b\ufeff", "⟨U+2066⟩x⟨U+2069⟩⟨U+200B⟩⟨U+FEFF⟩"),
        ("line\nnext\tcell", "line\nnext\tcell"),
        ("\ud800 alone", "\ufffd alone"),
        ("שלום 👩‍👧 café", "שלום 👩‍👧 café"),
    ],
)
def test_clean_shows_what_hides(given: str, shown: str) -> None:
    assert clean(given) == shown


def test_clean_cuts_and_says_so() -> None:
    assert clean("x" * 10_000, 100) == "x" * 100 + "… (9,900 more characters)"


def test_label_is_one_short_line() -> None:
    assert label("a\nb\t c") == "a b c"
    assert len(label("w" * 10_000)) == 60


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "7", True])
def test_not_a_number_is_a_dash(value: object) -> None:
    assert fixed(value) == "–"
    assert span(value, 1.0) == ""


def test_signs() -> None:
    assert fixed(-1.234, 1) == "\u22121.2"
    assert fixed(-0.001, 2) == "0.00"
    assert signed(0.26, 1) == "+0.3"
    assert signed(0.01, 1) == "0.0"
    assert span(-0.9, 0.5, 1, plus=True) == "\u22120.9 to +0.5"


def test_units_and_decimals() -> None:
    assert scaled([None, 2_300_000, 5], BYTES) == (1e6, "MB")
    assert decimals_for([0.0123]) == 4
    assert decimals_for([1234.5]) == 0
    assert decimals_for([]) == 2


def test_listed() -> None:
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefgh"), 2) == "a, b and 6 more"
    assert listed([]) == ""

"""Runs made once and read by many tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.facts import load
from reports.write import html, view
from reports.write.report import write_report
from tests.reports.synthetic import ARMS, write_run


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight arms, three batch sizes, one task."""
    return write_run(tmp_path_factory.mktemp("quick"), examples=30)


@pytest.fixture(scope="session")
def quick_report(quick_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with everything a report on quick_run is made of."""
    return write_report([quick_run], tmp_path_factory.mktemp("out")).parent


@pytest.fixture(scope="session")
def quick_html(quick_report: Path) -> str:
    """The page of quick_report."""
    return (quick_report / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """Full, a trained and an untrained schedule, and an exit method at one batch size: quick to make and to change."""
    return write_run(tmp_path / "small", (ARMS[0], ARMS[1], ARMS[4], ARMS[5]), (1,), examples=12, new_tokens=24)


def html_of(*folders: Path) -> str:
    """The page alone, without the files beside it."""
    return html.html(view.build(load.load(folders)))

"""One run, several experiments: who is told of a new name, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.runs import read_run
from experiments import names
from tests.synthetic_runs import make_run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a dashboard hears."""
    heard: list[Any] = []

    class Dashboard:
        def renamed(self, results: dict[str, float]) -> None:
            heard.append(results)

        def close(self) -> None:
            heard.append("closed")

    monkeypatch.setattr(names, "build_dashboards", lambda config, path, run_id: [Dashboard()])
    return heard


def test_a_finished_run_tells_new_names_once(tmp_path: Path, told: list[Any]) -> None:
    path = make_run(tmp_path, "baseline")
    names.add_names(path, ["baseline"], {})
    assert told == []
    names.add_names(path, ["stages_6", "baseline", "num_proposals_100"], {})
    assert read_run(path).experiments == ["baseline", "num_proposals_100", "stages_6"]
    assert told == [json.loads((path / "results.json").read_text()), "closed"]
    names.add_names(path, ["stages_6"], {})
    assert len(told) == 2, "a sweep that is started again waits for nothing"


def test_a_run_under_way_tells_its_names_itself(tmp_path: Path, told: list[Any]) -> None:
    path = make_run(tmp_path, "baseline", state="running")
    names.add_names(path, ["stages_6"], {})
    assert read_run(path).experiments == ["baseline", "stages_6"]
    assert told == []

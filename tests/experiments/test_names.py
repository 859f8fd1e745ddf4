"""One run, several experiments: who is told of a new name, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import names
from sparse_rcnn.rundir.reader import Run
from tests.support.runs import make_run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a dashboard of the run hears."""
    heard: list[Any] = []

    class Dashboard:
        def renamed(self, results: dict[str, float], timeout: float) -> None:
            assert 0 < timeout <= names.TELLING_SECONDS
            heard.append(results)

    def build(config: dict[str, Any], path: Path, run_id: str) -> list[Dashboard]:
        assert (config, run_id) == ({"log": "of the run"}, path.name)
        return [Dashboard()]

    monkeypatch.setattr(names, "build_dashboards", build)
    monkeypatch.setattr(names, "deviations", lambda config: [])
    return heard


def test_a_finished_run_tells_its_names(tmp_path: Path, told: list[Any]) -> None:
    path = make_run(tmp_path, "baseline", config={"log": "of the run"})
    names.add_names(path, [{"experiment_name": name} for name in ("stages_6", "baseline", "num_proposals_100")])
    names.tell_names([path])
    names.tell_names([path])
    assert Run(path).experiments == ["baseline", "num_proposals_100", "stages_6"]
    assert told == [json.loads((path / "results.json").read_text())] * 2


def test_a_run_under_way_tells_its_names_itself(tmp_path: Path, told: list[Any]) -> None:
    path = make_run(tmp_path, "baseline", state="running")
    names.add_names(path, [{"experiment_name": "stages_6"}])
    names.tell_names([path])
    assert Run(path).experiments == ["baseline", "stages_6"]
    assert told == []


def test_a_configuration_of_another_version_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*_: Any) -> list[Any]:
        raise TypeError("WandbWriter.__init__() missing 1 required argument")

    monkeypatch.setattr(names, "build_dashboards", build)
    names.tell_names([make_run(tmp_path, "baseline")])
    assert "baseline" in capsys.readouterr().err


def test_a_name_with_overrides_is_known_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(tmp_path, "baseline")
    monkeypatch.setattr(names, "deviations", lambda config: [f"num_stages: 6 -> {config['num_stages']}"])
    names.add_names(path, [{"experiment_name": "stages_6", "num_stages": 2}])
    names.add_names(path, [{"experiment_name": "stages_6", "num_stages": 3}])  # told once
    (path / "names" / "older").touch()
    (path / "names" / ".baseline.x.tmp").touch()
    assert Run(path).deviations == {"baseline": [], "older": [], "stages_6": ["num_stages: 6 -> 2"]}

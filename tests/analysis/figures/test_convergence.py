"""The command that draws figures: where they go, damaged evaluations, and a terminal that lacks characters."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from analysis.figures.convergence import curves
from analysis.summaries import load_summaries
from tests.support.commands import run_command
from tests.support.runs import make_run


def test_figures_go_to_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs", "baseline", evaluations={1.0: 0.1})
    monkeypatch.chdir(tmp_path)
    assert run_command("figures", []) == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["figure1.pdf", "figure1.png"]


def test_damaged_evaluations_are_left_out_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "runs", "baseline", evaluations={1.0: 0.1, 2.0: 0.2, 3.0: 0.3})
    (path / "eval" / "step_00000100.json").write_text('{"epoch": 1.0, "met')
    (path / "eval" / "step_00000200.json").write_text('{"epoch": 2.0, "metrics": [1]}')
    assert run_command("figures", ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    (drawn,) = curves(load_summaries([tmp_path / "runs"]), "mini")
    assert (drawn.epochs, drawn.mean) == ((3.0,), (30.0,))
    first, second, _ = capsys.readouterr().err.splitlines()  # the last is about figure 4
    assert first.startswith(f"left out: {path}/eval/step_00000100.json is not valid JSON")
    assert (
        second == f"left out: {path}/eval/step_00000200.json is not an evaluation: metrics must be an object of numbers"
    )


def test_a_run_without_a_whole_evaluation_is_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "runs", "baseline", evaluations={1.0: 0.1})
    (path / "eval" / "step_00000100.json").write_text("")
    assert run_command("figures", ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    named, error = capsys.readouterr().err.splitlines()
    assert named.startswith(f"left out: {path}/eval/step_00000100.json")
    assert error.startswith("error: none of baseline")


def test_a_terminal_without_a_character_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "baseline", 0, 0.5)
    make_run(tmp_path, "baseline", 1, 0.6)
    arguments = ["--runs", str(tmp_path), "--table", "8"]
    for errors, expected in (("strict", b"55.0 ? 7.1"), ("xmlcharrefreplace", b"55.0 &#177; 7.1")):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii", errors=errors))
        assert run_command("tables", arguments) == 0
        sys.stdout.flush()
        assert expected in printed.getvalue()
    assert run_command("tables", [*arguments, "--out", str(tmp_path / "table.txt")]) == 0
    assert "55.0 ± 7.1" in (tmp_path / "table.txt").read_text(encoding="utf-8")


def test_a_damaged_view_leaves_figure_4_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "runs", evaluations={1.0: 0.5})
    (path / "views").mkdir()
    (path / "views" / "1.json").write_text('{"torn')
    assert run_command("figures", ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["figure1.pdf", "figure1.png"]
    err = capsys.readouterr().err
    assert err.startswith("no figure 4: ")
    assert "views/1.json" in err

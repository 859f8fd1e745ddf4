"""python -m analysis figures: where they go, what is drawn, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.figures.convergence import COLOURS, curves
from analysis.summaries import load_summaries
from tests.support.commands import run_command
from tests.support.runs import edit_meta, make_run


def colours(path: Path) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


def test_the_figure_is_drawn_and_repeatable(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs, "baseline", 0, evaluations={1.0: 0.1, 10.0: 0.5})
    path = make_run(runs, "num_proposals_300_crop", 0, evaluations={1.0: 0.2, 10.0: 0.6})
    contents = []
    for out in (tmp_path / "a", tmp_path / "b"):
        assert run_command("figures", ["--runs", str(runs), "--out", str(out)]) == 0
        contents.append([(out / f"figure1.{suffix}").read_bytes() for suffix in ("png", "pdf")])
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"%PDF")
    drawn = colours(tmp_path / "a" / "figure1.png")
    rgb = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in COLOURS]
    assert set(rgb[:2]) <= drawn
    assert not set(rgb[2:]) & drawn
    # COCO's numbers stand beside runs on COCO alone.
    for run in (path, next((runs / "baseline").iterdir())):
        data = json.loads((run / "meta.json").read_text())["data"]
        edit_meta(run, data=data | {"name": "coco"})
    assert run_command("figures", ["--runs", str(runs), "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "figure1.png").read_bytes() != contents[0][0]


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
    assert error.startswith("error: none of the rows of table 1")


def test_a_damaged_view_leaves_figure_4_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "runs", evaluations={1.0: 0.5})
    (path / "views").mkdir()
    (path / "views" / "1.json").write_text('{"torn')
    assert run_command("figures", ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["figure1.pdf", "figure1.png"]
    err = capsys.readouterr().err
    assert err.startswith("no figure 4: ")
    assert "views/1.json" in err

"""python -m analysis stages: of detectors that lack stages or learned boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from analysis.figures.stages import stages_figure
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import read_view
from tests.support.commands import run_command
from tests.support.runs import make_bare_run, make_logged_run
from tests.support.views import add_views, view_content, view_without_stages


@pytest.mark.parametrize("more", [[], ["--look", "1"], ["--image", "7"]])
@pytest.mark.parametrize(
    ("state", "num_events"), [("finished", 30), ("running", 30), ("finished", 0)], ids=["ended", "begun", "no events"]
)
@pytest.mark.parametrize("with_views", [True, False])
def test_a_detector_without_stages_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    state: str,
    num_events: int,
    with_views: bool,
) -> None:
    run = make_logged_run(tmp_path, num_stages=0, state=state, num_events=num_events)
    if with_views:
        add_views(run, [view_without_stages(7)])
    assert run_command("stages", ["--run", str(run), "--out", str(tmp_path / "a.png"), *more]) == 2
    error = capsys.readouterr().err
    words = "its detector has no stages to draw; its detections are shown by python -m analysis dashboard"
    assert error == f"error: {run}: {words}\n"
    assert not (tmp_path / "a.png").exists()


def test_a_run_without_numbers_is_asked_for_its_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_bare_run(tmp_path)
    assert run_command("stages", ["--run", str(run)]) == 2
    assert f"{run} has no views: its evaluations write them" in capsys.readouterr().err


def test_where_nothing_is_filtered_look_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_logged_run(tmp_path)
    add_views(run, [view_content(1, responses=False)])
    assert run_command("stages", ["--run", str(run), "--look", "1"]) == 2
    assert capsys.readouterr().err == (
        f"error: --look shows the RoI features that a dynamic head filters, and the detector of {run} filters none: "
        "leave it out to draw its stages\n"
    )


def test_stages_without_learned_boxes_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_logged_run(tmp_path)
    add_views(run, [view_content(1, responses=False, has_proposals=False)])
    out = tmp_path / "a.png"
    assert run_command("stages", ["--run", str(run), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    axes = [axis for axis in stages_figure(read_view(Run(run), 1), 0.0, with_truth=False).axes if axis.get_visible()]
    assert [axis.get_title() for axis in axes] == [f"stage {stage}: 10 of 10" for stage in range(3)]
    capsys.readouterr()
    save_file({"layer.weight": np.zeros(3, np.float32)}, run / "model.safetensors")
    assert run_command("stages", ["--run", str(run), "--proposals", "--out", str(tmp_path / "b.png")]) == 2
    assert capsys.readouterr().err == f"error: --proposals needs learned boxes; {run / 'model.safetensors'} has none\n"

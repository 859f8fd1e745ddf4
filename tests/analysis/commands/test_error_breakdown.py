"""python -m analysis errors: its tables for one run and for two, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.statistics.duplicates import count_duplicates
from tests.support.coco_numbers import mean_of, pycocotools_precision, random_coco
from tests.support.commands import run_command
from tests.support.hand_boxes import coco_detections, two_stages
from tests.support.runs import make_evaluated_run, make_run
from tests.support.truths import truth_of


def test_the_command_for_one_run_and_for_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, found = random_coco(0)
    runs = tmp_path / "runs"
    a = make_evaluated_run(runs, "a", coco, found, stages=[found, found[:-30], found])
    b = make_evaluated_run(runs, "b", coco, found[::2], stages=[found, found[::2]])
    assert run_command("errors", [str(a), "--score", "0.5"]) == 0
    out = capsys.readouterr().out
    starts = ("AP by ", "Duplicates by ", "Duplicates removed ", "Before and ")
    headings = [line for line in out.splitlines() if line == "AP" or line.startswith(starts)]
    assert headings == [
        "AP",
        "AP by size",
        "AP by class",
        "AP by number of boxes in the image",
        "AP by the largest IoU between boxes of the image",
        "AP by stage, each stage's own output",
        "Duplicates by stage: a",
        "Duplicates removed by later stages",
        "Before and after NMS",
    ]
    assert "Whether they really differ" not in out
    assert "contribution" not in out
    assert "score of at least 0.5" in out
    truth = truth_of(coco)
    count = count_duplicates(truth, coco_detections(truth, found), 0.5)
    assert count.num_duplicates > 5
    numbers = [count.num_detections, count.num_true, count.num_duplicates, count.num_others]
    row = out[out.index("Duplicates by stage: a") :].splitlines()[4].split()
    assert row[:6] == ["0", *map(str, numbers), f"{100 * count.num_duplicates / count.num_detections:.1f}%"]
    assert row[8] == f"{count.num_duplicates / count.num_true:.2f}"
    assert run_command("errors", [str(a), str(b), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    stages = out[out.index("### AP by stage") :].splitlines()[4:7]
    expected = [100 * mean_of(pycocotools_precision(coco, own)[..., 0]) for own in (found, found[:-30], found[::2])]
    full, shorter, half = expected
    assert f"| AP | {full:.2f} | {half:.2f} | {half - full:+.2f} |" in out
    assert f"`python -m analysis compare {a} {b}` tests it" in out
    assert stages[0] == f"| 0 | {full:.1f} | {full:.1f} | +0.0 |"
    assert stages[1] == f"| 1 | {shorter:.1f} | {half:.1f} | {half - shorter:+.1f} |"
    assert stages[2] == f"| 2 | {full:.1f} | \u2013 | \u2013 |"


def test_the_command_says_what_later_stages_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, (first, last) = two_stages()
    a = make_evaluated_run(tmp_path / "runs", "a", coco, last, stages=[first, last])
    b = make_evaluated_run(tmp_path / "runs", "b", coco, first, stages=[last, first])
    assert run_command("errors", [str(a), str(b), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    change = "Duplicates per box found from the first to the last stage: "
    assert f"{change}1.00 to 0.75, 25.0% removed; among the N best 1.00 to 0.33, 66.7% removed." in out
    assert f"{change}0.75 to 1.00, 33.3% added; among the N best 0.33 to 1.00, 200.0% added." in out
    rows = out[out.index("### Duplicates removed by later stages") :].splitlines()[4:22]
    assert rows[:3] == [
        "| score ≥ 0.3 | all | a | 1.00 | 0.75 | 25.0 |",
        "| score ≥ 0.3 | all | b | 0.75 | 1.00 | -33.3 |",
        "| score ≥ 0.3 | all | Δ | -0.25 | +0.25 | -58.3 |",
    ]
    assert rows[3] == "| score ≥ 0.3 | crowded | a | \u2013 | 0.50 | \u2013 |"
    assert rows[9:12] == [
        "| N best | all | a | 1.00 | 0.33 | 66.7 |",
        "| N best | all | b | 0.33 | 1.00 | -200.0 |",
        "| N best | all | Δ | -0.67 | +0.67 | -266.7 |",
    ]
    assert rows[12] == "| N best | crowded | a | 1.00 | 0.00 | 100.0 |"


def test_a_single_stage_removes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, (_, last) = two_stages()
    run = make_evaluated_run(tmp_path / "runs", "a", coco, last, stages=[last], val__stage_0__AP=0.5)
    assert run_command("errors", [str(run), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "from the first to the last stage" not in out
    assert "| score ≥ 0.3 | all | a | 0.75 | 0.75 | \u2013 |" in out


def test_what_a_user_gets_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, found = random_coco(0)
    run = make_evaluated_run(tmp_path / "runs", "a", coco, found)
    assert run_command("errors", [str(run)]) == 0
    assert f"No table by stage: {run.name} has no stage_detections.npz" in capsys.readouterr().out
    for arguments, message in [
        ([run, run, run], "3 runs are given: give one, or two to compare"),
        ([run, run.parent / ".." / "a" / run.name], f"{run} is given twice: give it once"),
        ([tmp_path], "is not a run directory"),
        ([make_run(tmp_path, "x", state="failed")], "is not finished (failed)"),
        ([run, make_run(tmp_path, "y")], "were evaluated on different data"),
    ]:
        assert run_command("errors", [str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err
    for iou in ("1.5", "nan"):
        assert run_command("errors", [str(run), "--nms-iou", iou]) == 2
        assert f"--nms-iou {iou}: an IoU lies between 0 and 1" in capsys.readouterr().err
    (run / "stage_detections.npz").write_bytes(b"PK\x03\x04 cut off")
    assert run_command("errors", [str(run)]) == 2
    assert "stage_detections.npz cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan"])
def test_a_score_that_is_none(score: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("errors", [str(make_run(tmp_path)), f"--score={score}"]) == 2
    assert f"--score {score}: scores lie between 0 and 1, give such a number" in capsys.readouterr().err

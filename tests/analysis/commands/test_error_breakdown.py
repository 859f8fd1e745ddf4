"""AP by size, class, crowding and stage, what explains a difference, and duplicates counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.breakdown import (
    SubsetAP,
    boxes_per_image,
    by_box_count,
    by_class,
    by_overlap,
    by_size,
    by_stage,
    contributions,
    largest_overlaps,
)
from analysis.statistics.coco_columns import FoundBoxes, GroundTruth, columns_to_detections
from analysis.statistics.duplicates import DuplicateCounts, count_duplicates, count_duplicates_of_best, removed_percent
from analysis.statistics.matching import match
from analysis.tables.error_tables import error_grids
from sparse_rcnn.rundir.reader import Run
from tests.support.coco_numbers import mean_of, pycocotools_precision, random_coco
from tests.support.commands import run_command
from tests.support.runs import make_evaluated_run, make_run

IMAGES = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}


def box(image: int, category: int, xywh: list[float], crowd: int = 0) -> dict[str, Any]:
    return {"id": 9, "image_id": image, "category_id": category, "bbox": xywh, "iscrowd": crowd}


def detections(truth: GroundTruth, *records: tuple[int, int, list[float], float]) -> FoundBoxes:
    columns = zip(*records, strict=True) if records else ([], [], [], [])
    return columns_to_detections(truth, columns, "hand")


def coco_detections(truth: GroundTruth, found: list[dict[str, Any]]) -> FoundBoxes:
    """Of a COCO results list."""
    return detections(truth, *((r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in found))


def by_hand() -> tuple[GroundTruth, FoundBoxes]:
    boxes = [
        box(1, 1, [0, 0, 10, 10]),
        box(1, 1, [50, 0, 10, 10]),
        box(1, 2, [0, 50, 10, 10]),
        box(2, 1, [0, 0, 10, 10]),
    ]
    truth = GroundTruth.from_coco(IMAGES | {"annotations": [*boxes, box(1, 1, [100, 100, 40, 40], crowd=1)]})
    found = detections(
        truth,
        (1, 1, [0, 0, 10, 9], 0.9),  # finds the first box
        (1, 1, [0, 0, 10, 10], 0.8),  # a better box but a lower score: its duplicate
        (1, 1, [0, 1, 10, 9], 0.7),  # another
        (1, 1, [0, 0, 10, 4], 0.65),  # IoU 0.4: on nothing
        (1, 2, [0, 0, 10, 10], 0.6),  # the wrong class: on nothing
        (1, 1, [50, 0, 10, 10], 0.5),  # finds the second
        (1, 2, [0, 50, 10, 10], 0.4),  # finds the third
        (1, 1, [101, 101, 9, 9], 0.4),  # in the crowd: ignored
        (1, 1, [0, 0, 10, 10], 0.2),  # a duplicate below the score
        (2, 1, [0, 0, 10, 10], 0.3),  # finds the fourth; another image's detections are no matter
    )
    return truth, found


def test_duplicates_by_hand() -> None:
    truth, found = by_hand()
    assert count_duplicates(truth, found, 0.3) == DuplicateCounts(9, 4, 2, 1)
    assert count_duplicates(truth, found, 0.3).num_others == 2
    assert count_duplicates(truth, found, 0.3).share == pytest.approx(2 / 9)
    assert count_duplicates(truth, found, 0.0) == DuplicateCounts(10, 4, 3, 1)
    assert count_duplicates(truth, found, 0.75) == DuplicateCounts(2, 1, 1, 0)
    assert count_duplicates(truth, found, 0.3, np.array([False, True])) == DuplicateCounts(1, 1, 0, 0)
    assert count_duplicates(truth, found, 0.95) == DuplicateCounts(0, 0, 0, 0)
    assert count_duplicates(truth, found, 0.95).share is None


def test_a_detection_near_two_boxes_takes_the_free_one() -> None:
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [2, 0, 10, 10])]
    truth = GroundTruth.from_coco(IMAGES | {"annotations": boxes})
    two = [(1, 1, [0.0, 0, 10, 10], 0.9), (1, 1, [0.5, 0, 10, 10], 0.8)]
    assert count_duplicates(truth, detections(truth, *two), 0.3) == DuplicateCounts(2, 2, 0, 0)
    three = [*two, (1, 1, [1.0, 0, 10, 10], 0.7)]
    assert count_duplicates(truth, detections(truth, *three), 0.3) == DuplicateCounts(3, 2, 1, 0)


def test_what_lies_in_a_crowd_is_no_duplicate() -> None:
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [0, 0, 40, 40], crowd=1)]
    truth = GroundTruth.from_coco(IMAGES | {"annotations": boxes})
    two = [(1, 1, [0.0, 0, 10, 10], 0.9), (1, 1, [0.0, 0, 10, 9], 0.8)]
    assert count_duplicates(truth, detections(truth, *two), 0.3) == DuplicateCounts(2, 1, 0, 1)


def test_counts_and_overlaps_of_images() -> None:
    truth, _ = by_hand()
    assert boxes_per_image(truth).tolist() == [3, 1]
    assert largest_overlaps(truth).tolist() == [0, 0]
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 2, [5, 0, 10, 10]), box(1, 1, [0, 8, 10, 10]), box(2, 1, [0, 0, 9, 9])]
    truth = GroundTruth.from_coco(IMAGES | {"annotations": [*boxes, box(2, 1, [0, 0, 9, 9], crowd=1)]})
    np.testing.assert_allclose(largest_overlaps(truth), [50 / 150, 0])


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_what_pycocotools_gives_for_them(seed: int) -> None:
    coco, found = random_coco(seed)
    truth = GroundTruth.from_coco(coco)
    own = coco_detections(truth, found)
    precision = pycocotools_precision(coco, found)
    for index, part in enumerate(by_size(truth, own), start=1):
        assert part.ap == pytest.approx(100 * mean_of(precision[..., index]), abs=1e-10)
    whole = AveragePrecision(match(truth, own))
    classes = by_class(truth, whole)
    assert [part.name for part in classes] == ["class 0", "class 1", "class 2"], "the last class has no box"
    for k, part in enumerate(classes):
        assert part.ap == pytest.approx(100 * mean_of(precision[:, :, k, 0]), abs=1e-10)
    counts = {image["id"]: 0 for image in coco["images"]}
    for record in coco["annotations"]:
        counts[record["image_id"]] += not record["iscrowd"]
    parts = {part.name: part for part in by_box_count(truth, whole)}
    chosen = [image for image, count in counts.items() if 2 <= count <= 3]
    assert parts["2 to 3"].count == len(chosen)
    expected = mean_of(pycocotools_precision(coco, found, image_ids=chosen)[..., 0])
    assert parts["2 to 3"].ap == pytest.approx(100 * expected, abs=1e-10)
    assert parts["0"].ap is None
    assert sum(part.count for part in parts.values()) == len(coco["images"])
    assert sum(part.count for part in by_overlap(truth, whole)) == len(coco["images"])


def test_stages(tmp_path: Path) -> None:
    truth, found = by_hand()
    last = found.chosen(np.array([0, 5, 6, 9]))
    first, second = by_stage(truth, [found, last], 0.3)
    assert (first.index, second.index) == (0, 1)
    assert first.ap is not None
    assert second.ap is not None
    assert first.ap < second.ap
    assert first.above_score.everywhere == DuplicateCounts(9, 4, 2, 1)
    assert second.above_score.everywhere == DuplicateCounts(4, 4, 0, 0)
    assert first.above_score.crowded.num_detections == 0, "no boxes overlap"
    assert first.above_score.elsewhere == first.above_score.everywhere
    assert first.best.everywhere == DuplicateCounts(4, 1, 2, 0), "four boxes without the crowd: the four best"
    assert second.best == second.above_score


def test_the_command_for_one_run_and_for_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, found = random_coco(0)
    runs = tmp_path / "runs"
    a = make_evaluated_run(runs, "a", coco, found, stages=[found, found[:-30], found])
    b = make_evaluated_run(runs, "b", coco, found[::2], stages=[found, found[::2]])
    assert run_command("errors", [str(a), "--score", "0.5"]) == 0
    out = capsys.readouterr().out
    starts = ("AP by ", "Duplicates by ", "Duplicates removed ")
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
    ]
    assert "Whether they really differ" not in out
    assert "contribution" not in out
    assert "score of at least 0.5" in out
    truth = GroundTruth.from_coco(coco)
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


def test_contributions_of_classes_by_hand() -> None:
    categories = [*IMAGES["categories"], {"id": 3, "name": "no box"}]
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [50, 0, 10, 10]), box(2, 2, [0, 0, 10, 10])]
    truth = GroundTruth.from_coco(IMAGES | {"categories": categories, "annotations": boxes})
    both_a = detections(truth, (1, 1, [0, 0, 10, 10], 0.9), (1, 1, [50, 0, 10, 10], 0.8))
    one_a_and_b = detections(truth, (1, 1, [0, 0, 10, 10], 0.9), (2, 2, [0, 0, 10, 10], 0.8))
    classes = [by_class(truth, AveragePrecision(match(truth, own))) for own in (both_a, one_a_and_b)]
    assert [part.ap for part in classes[0]] == [100, 0]
    # Half of the boxes: 51 of the 101 recalls.
    assert [part.ap for part in classes[1]] == pytest.approx([100 * 51 / 101, 100])
    assert contributions(*classes) == pytest.approx([-100 * 50 / 101 / 2, 50])


@pytest.mark.parametrize("seed", range(3))
def test_contributions_add_up_to_the_difference(seed: int) -> None:
    coco, found = random_coco(seed)
    truth = GroundTruth.from_coco(coco)
    both = [AveragePrecision(match(truth, coco_detections(truth, own))) for own in (found, found[::2])]
    added = contributions(*(by_class(truth, precision) for precision in both))
    assert len(added) == 3
    assert sum(value for value in added if value is not None) == pytest.approx(
        100 * (both[1]().mean() - both[0]().mean()), abs=1e-10
    )


def test_a_class_without_ap_contributes_nothing_and_is_not_counted() -> None:
    first, second = [SubsetAP("a", 1, 10.0), SubsetAP("b", 1, None)], [SubsetAP("a", 1, 30.0), SubsetAP("b", 1, None)]
    assert contributions(first, second) == [20, None]


def two_stages() -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Two images of two boxes, crowded in the first; a first stage that scores low and a last one that scores high."""
    annotations = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [5, 0, 10, 10])]
    annotations += [box(2, 1, [0, 0, 10, 10]), box(2, 1, [50, 0, 10, 10]), box(2, 1, [100, 100, 40, 40], crowd=1)]
    annotations = [
        record | {"id": k, "area": record["bbox"][2] * record["bbox"][3]} for k, record in enumerate(annotations, 1)
    ]
    first = [
        (2, [0, 0, 10, 10], 0.4),  # finds a box
        (2, [0, 0, 10, 9], 0.35),  # its duplicate
        (1, [0, 0, 10, 10], 0.25),  # finds a box
        (1, [0, 0, 10, 9], 0.2),  # its duplicate
        (1, [5, 0, 10, 10], 0.1),  # the other two boxes, too late for the four best
        (2, [50, 0, 10, 10], 0.05),
    ]
    last = [
        (2, [0, 0, 10, 10], 0.95),  # three find a box
        (1, [0, 0, 10, 10], 0.9),
        (1, [5, 0, 10, 10], 0.8),
        (1, [5, 0, 10, 9], 0.7),  # a duplicate
        (2, [50, 0, 10, 10], 0.6),  # the fourth, too late for the four best
        (2, [0, 0, 10, 9], 0.5),  # duplicates
        (2, [50, 0, 10, 9], 0.45),
    ]
    stages = [
        [{"image_id": image, "category_id": 1, "bbox": xywh, "score": score} for image, xywh, score in stage]
        for stage in (first, last)
    ]
    return IMAGES | {"annotations": annotations}, stages


def test_removed_duplicates_by_hand() -> None:
    coco, records = two_stages()
    truth = GroundTruth.from_coco(coco)
    first, last = by_stage(truth, [coco_detections(truth, stage) for stage in records], 0.3)
    # Above the score: 1 duplicate for 1 box found, then 3 for 4; in the crowded image nothing, then 1 for 2.
    assert first.above_score == (DuplicateCounts(2, 1, 1, 0), DuplicateCounts(0, 0, 0, 0), DuplicateCounts(2, 1, 1, 0))
    assert last.above_score == (DuplicateCounts(7, 4, 3, 0), DuplicateCounts(3, 2, 1, 0), DuplicateCounts(4, 2, 2, 0))
    removed = [removed_percent(*pair) for pair in zip(first.above_score, last.above_score, strict=True)]
    assert removed == [pytest.approx(25), None, pytest.approx(0)]
    # Of the four best: 2 duplicates for 2 boxes found, then 1 for 3. Of the two best of each image: 1 for 1, then none.
    assert first.best == (DuplicateCounts(4, 2, 2, 0), DuplicateCounts(2, 1, 1, 0), DuplicateCounts(2, 1, 1, 0))
    assert last.best == (DuplicateCounts(4, 3, 1, 0), DuplicateCounts(2, 2, 0, 0), DuplicateCounts(2, 2, 0, 0))
    removed = [removed_percent(*pair) for pair in zip(first.best, last.best, strict=True)]
    assert removed == pytest.approx([100 * 2 / 3, 100, 100])
    assert removed_percent(last.best.everywhere, first.best.everywhere) == pytest.approx(-200), "added"
    assert removed_percent(last.best.crowded, first.best.crowded) is None, "there was none to remove"


def test_the_best_detections() -> None:
    truth, found = by_hand()
    assert count_duplicates_of_best(truth, found.chosen(np.array([0, 1]))) == DuplicateCounts(2, 1, 1, 0), (
        "fewer than boxes"
    )
    assert count_duplicates_of_best(truth, found, np.array([False, True])) == DuplicateCounts(1, 1, 0, 0)
    nothing = np.zeros(2, np.bool_)
    assert count_duplicates_of_best(truth, found, nothing) == DuplicateCounts(0, 0, 0, 0)
    one = GroundTruth.from_coco(IMAGES | {"annotations": [box(1, 1, [0, 0, 10, 10])]})
    equal = detections(one, (1, 1, [50, 0, 10, 10], 0.5), (1, 1, [0, 0, 10, 10], 0.5))
    assert count_duplicates_of_best(one, equal) == DuplicateCounts(1, 0, 0, 0), "the earlier of equal scores"


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
    run = make_evaluated_run(tmp_path / "runs", "a", coco, last, stages=[last])
    assert run_command("errors", [str(run), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "from the first to the last stage" not in out
    assert "| score ≥ 0.3 | all | a | 0.75 | 0.75 | \u2013 |" in out


def test_titles_tell_all_tables_apart(tmp_path: Path) -> None:
    coco, stages = two_stages()
    a, b, c = (
        make_evaluated_run(tmp_path / root, "a", coco, stages[1], seed=seed, stages=stages)
        for root, seed in (("runs", 0), ("runs", 1), ("copies", 0))
    )
    for pair, names in (((a, b), (a.name, b.name)), ((a, c), (str(a), str(c)))):
        titles = [table.title for table in error_grids([Run(path) for path in pair], tmp_path / "val.json")]
        assert len(set(titles)) == len(titles)
        assert [title for title in titles if title.startswith("Duplicates by")] == [
            f"Duplicates by stage: {name}" for name in names
        ]


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
    (run / "stage_detections.npz").write_bytes(b"PK\x03\x04 cut off")
    assert run_command("errors", [str(run)]) == 2
    assert "stage_detections.npz cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan"])
def test_a_score_that_is_none(score: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("errors", [str(make_run(tmp_path)), f"--score={score}"]) == 2
    assert f"--score {score}: scores lie between 0 and 1, give such a number" in capsys.readouterr().err

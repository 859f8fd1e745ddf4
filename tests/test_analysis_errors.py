"""AP by size, class, crowding and stage, and duplicates counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.average_precision import AveragePrecision
from analysis.boxes_data import Detections, GroundTruth, columns_to_detections
from analysis.breakdown import boxes_per_image, by_box_count, by_class, by_overlap, by_size, by_stage, largest_overlaps
from analysis.duplicates import Duplicates, count_duplicates
from analysis.matches import match
from tests.synthetic_runs import make_evaluated_run, make_run, mean_of, pycocotools_precision, random_coco, run_command

IMAGES = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}


def box(image: int, category: int, xywh: list[float], crowd: int = 0) -> dict[str, Any]:
    return {"id": 9, "image_id": image, "category_id": category, "bbox": xywh, "iscrowd": crowd}


def detections(truth: GroundTruth, *records: tuple[int, int, list[float], float]) -> Detections:
    columns = zip(*records, strict=True) if records else ([], [], [], [])
    return columns_to_detections(truth, columns, "hand")


def by_hand() -> tuple[GroundTruth, Detections]:
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
    assert count_duplicates(truth, found, 0.3) == Duplicates(9, 4, 2, 1)
    assert count_duplicates(truth, found, 0.3).num_others == 2
    assert count_duplicates(truth, found, 0.3).share == pytest.approx(2 / 9)
    assert count_duplicates(truth, found, 0.0) == Duplicates(10, 4, 3, 1)
    assert count_duplicates(truth, found, 0.75) == Duplicates(2, 1, 1, 0)
    assert count_duplicates(truth, found, 0.3, np.array([False, True])) == Duplicates(1, 1, 0, 0)
    assert count_duplicates(truth, found, 0.95) == Duplicates(0, 0, 0, 0)
    assert count_duplicates(truth, found, 0.95).share is None


def test_a_detection_near_two_boxes_takes_the_free_one() -> None:
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [2, 0, 10, 10])]
    truth = GroundTruth.from_coco(IMAGES | {"annotations": boxes})
    two = [(1, 1, [0.0, 0, 10, 10], 0.9), (1, 1, [0.5, 0, 10, 10], 0.8)]
    assert count_duplicates(truth, detections(truth, *two), 0.3) == Duplicates(2, 2, 0, 0)
    three = [*two, (1, 1, [1.0, 0, 10, 10], 0.7)]
    assert count_duplicates(truth, detections(truth, *three), 0.3) == Duplicates(3, 2, 1, 0)


def test_what_lies_in_a_crowd_is_no_duplicate() -> None:
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [0, 0, 40, 40], crowd=1)]
    truth = GroundTruth.from_coco(IMAGES | {"annotations": boxes})
    two = [(1, 1, [0.0, 0, 10, 10], 0.9), (1, 1, [0.0, 0, 10, 9], 0.8)]
    assert count_duplicates(truth, detections(truth, *two), 0.3) == Duplicates(2, 1, 0, 1)


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
    values = [[record[key] for record in found] for key in ("image_id", "category_id", "bbox", "score")]
    own = columns_to_detections(truth, values, "random")
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
    assert first.everywhere == Duplicates(9, 4, 2, 1)
    assert second.everywhere == Duplicates(4, 4, 0, 0)
    assert first.crowded.num_detections == 0, "no boxes overlap"
    assert first.elsewhere == first.everywhere


def test_the_command_for_one_run_and_for_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, found = random_coco(0)
    runs = tmp_path / "runs"
    a = make_evaluated_run(runs, "a", coco, found, stages=[found, found[:-30], found])
    b = make_evaluated_run(runs, "b", coco, found[::2], stages=[found, found[::2]])
    assert run_command("errors", [str(a), "--score", "0.5"]) == 0
    out = capsys.readouterr().out
    headings = [line for line in out.splitlines() if line.startswith(("AP ", "Duplicates "))]
    assert headings == [
        "AP by size",
        "AP by class",
        "AP by number of boxes in the image",
        "AP by the largest IoU between boxes of the image",
        "AP by stage, each stage's own output",
        "Duplicates by stage: a",
    ]
    assert "score of at least 0.5" in out
    truth = GroundTruth.from_coco(coco)
    records = [(r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in found]
    count = count_duplicates(truth, detections(truth, *records), 0.5)
    assert count.num_duplicates > 5
    numbers = [count.num_detections, count.num_true, count.num_duplicates, count.num_others]
    ratios = [
        f"{count.num_duplicates / count.num_true:.2f}",
        f"{100 * count.num_duplicates / count.num_detections:.1f}%",
    ]
    lines = out[out.index("Duplicates by stage: a") :].splitlines()
    assert lines[4].split()[:7] == ["0", *map(str, numbers), *ratios]
    assert run_command("errors", [str(a), str(b), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    stages = out[out.index("### AP by stage") :].splitlines()[4:7]
    expected = [100 * mean_of(pycocotools_precision(coco, own)[..., 0]) for own in (found, found[:-30], found[::2])]
    full, shorter, half = expected
    assert stages[0] == f"| 0 | {full:.1f} | {full:.1f} | +0.0 |"
    assert stages[1] == f"| 1 | {shorter:.1f} | {half:.1f} | {half - shorter:+.1f} |"
    assert stages[2] == f"| 2 | {full:.1f} | \u2013 | \u2013 |"


def test_what_a_user_gets_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, found = random_coco(0)
    run = make_evaluated_run(tmp_path / "runs", "a", coco, found)
    assert run_command("errors", [str(run)]) == 0
    assert f"No table by stage: {run.name} has no stage_detections.npz" in capsys.readouterr().out
    for arguments, message in [
        ([run, run, run], "3 runs are given: give one, or two to compare"),
        ([tmp_path], "is not a run directory"),
        ([make_run(tmp_path, "x", state="failed")], "is not finished (failed)"),
        ([run, make_run(tmp_path, "y")], "were evaluated on different data"),
    ]:
        assert run_command("errors", [str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err
    (run / "stage_detections.npz").write_bytes(b"PK\x03\x04 cut off")
    assert run_command("errors", [str(run)]) == 2
    assert "stage_detections.npz cannot be read" in capsys.readouterr().err

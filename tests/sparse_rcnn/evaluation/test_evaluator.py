"""COCO numbers of both backends: those of pycocotools itself, and those that a hand computes."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import numpy as np
import pytest

from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.evaluation import (
    BACKENDS,
    CocoEvaluator,
    CocoGroundTruth,
    CocoMetrics,
    evaluate_detections,
)
from tests.support.coco_numbers import BOX, FAR, annotation, coco, detection
from tests.support.paths import shared

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Crowds, images without boxes or detections, all areas, score ties, shuffled, up to 350 detections."""
    rng = np.random.default_rng(seed)
    num_classes = (1, 2, 5)[seed % 3]
    most, ties = (350, 30, 8)[seed // 2 % 3], seed % 2 == 0
    image_ids = (np.arange(8) * 7 + 3).tolist()
    annotations, detections = [], []
    for image_id in image_ids:
        boxes = np.concatenate([rng.uniform(0, 400, (12, 2)), np.exp(rng.uniform(0, np.log(300), (12, 2)))], axis=1)[
            : rng.integers(0, 13)
        ]
        labels = rng.integers(1, num_classes + 1, len(boxes)) * 3
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            fields = {"area": box[2] * box[3] * rng.uniform(0.5, 1), "iscrowd": int(rng.random() < 0.2)}
            annotations.append({**annotation(box, image_id, label), **fields})
        for _ in range(rng.integers(0, most)):
            box, label = rng.uniform(0, 200, 4), int(rng.integers(1, num_classes + 1)) * 3
            if len(boxes) and rng.random() < 0.7:
                k = rng.integers(len(boxes))
                noise = rng.normal(0, 1, 4) * boxes[k, 2:].max() * rng.choice([0, 0.03, 0.1])
                box, label = boxes[k] + noise, int(labels[k])
                box[2:] = np.abs(box[2:])
            score = float(rng.random())
            detections.append(detection(box.tolist(), round(score, 1) if ties else score, image_id, label))
    shuffled = [detections[i] for i in rng.permutation(len(detections))]
    names = {i * 3: f"class {i}" for i in range(1, num_classes + 1)}
    return coco(annotations, tuple(image_ids), names), shuffled


def assert_equal(a: CocoMetrics, b: CocoMetrics, tolerance: float = 1e-12) -> None:
    assert a.summary == pytest.approx(b.summary, abs=tolerance)
    for of_a, of_b in ((a.per_class, b.per_class), (a.per_class_50, b.per_class_50)):
        assert list(of_a) == list(of_b)
        for name, value in of_a.items():
            assert value == (None if of_b[name] is None else pytest.approx(of_b[name], abs=tolerance)), name


# ---- against references ---------------------------------------------------------------------------


@each_backend
def test_equals_the_coco_api_example(backend: str) -> None:
    folder = shared("data/coco_eval_val2014_100")
    detections = json.loads((folder / "detections_bbox.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())["bbox_fakebbox100"]
    metrics = evaluate_detections(folder / "instances_val2014_100.json", detections, backend)
    assert list(metrics.summary) == NAMES
    assert list(metrics.summary.values()) == pytest.approx(expected, abs=1e-12)


def test_equals_pycocotools_used_by_itself() -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground_truth, detections = random_set(1)
    for record in ground_truth["annotations"]:
        record["id"] += 1  # pycocotools takes id 0 for 'no match'
    reference = COCO()
    reference.dataset = copy.deepcopy(ground_truth)
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(copy.deepcopy(detections)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metrics = evaluate_detections(ground_truth, detections, "pycocotools")
    assert list(metrics.summary.values()) == evaluation.stats.tolist()


@pytest.mark.parametrize("max_dets", [(1, 10, 100), (1, 10, 300)])
@pytest.mark.parametrize("seed", range(12))
def test_backends_are_equal(seed: int, max_dets: tuple[int, int, int]) -> None:
    ground_truth, detections = random_set(seed)
    a, b = (evaluate_detections(ground_truth, detections, backend, max_dets) for backend in BACKENDS)
    assert_equal(a, b)
    assert 0 < a.summary["AP"] < 1


@each_backend
def test_more_detections_count_at_max_dets_300(backend: str) -> None:
    detections = [detection([300.0, 1.0 + i, 5.0, 5.0], 0.9) for i in range(150)] + [detection(BOX, 0.1)]
    evaluator = CocoEvaluator(CocoGroundTruth(coco([annotation(BOX)])), backend)
    assert evaluator.evaluate(detections).summary["AR100"] == 0
    metrics = evaluator.evaluate(detections, (1, 10, 300))
    assert [*metrics.summary][6:9] == ["AR1", "AR10", "AR300"]
    assert metrics.summary["AR300"] == metrics.summary["ARm"] == 1
    assert metrics.summary["AP"] == pytest.approx(1 / 151)
    assert metrics.summary["APm"] == pytest.approx(1)  # small false positives do not count there
    assert metrics.max_dets == (1, 10, 300)


# ---- by hand --------------------------------------------------------------------------------------


@each_backend
def test_one_perfect_box(backend: str) -> None:
    metrics = evaluate_detections(coco([annotation(BOX)]), [detection(BOX)], backend)
    expected = dict.fromkeys(NAMES, 1.0) | dict.fromkeys(["APs", "APl", "ARs", "ARl"], -1.0)
    assert metrics.summary == pytest.approx(expected)
    assert metrics.per_class == pytest.approx({"cat": 1.0})
    assert metrics.per_class_50 == pytest.approx({"cat": 1.0})
    assert metrics.flat("val/bbox") == {f"val/bbox/{name}": metrics.summary[name] for name in NAMES}


@each_backend
def test_one_of_two_found(backend: str) -> None:
    # Precision 1 at the 51 of 101 recall points up to 0.5.
    ground_truth = coco([annotation(BOX), annotation(FAR)])
    metrics = evaluate_detections(ground_truth, [detection(BOX)], backend)
    assert metrics.summary["AP"] == pytest.approx(51 / 101)
    assert metrics.summary["AP75"] == pytest.approx(51 / 101)
    assert metrics.summary["AR1"] == metrics.summary["AR100"] == 0.5


@each_backend
def test_half_a_box_counts_up_to_its_iou(backend: str) -> None:
    # IoU 30 / 50 = 0.6: a match at the thresholds 0.50, 0.55 and 0.60 of ten.
    metrics = evaluate_detections(coco([annotation(BOX)]), [detection([10.0, 10.0, 50.0, 30.0])], backend)
    assert metrics.summary["AP"] == pytest.approx(0.3)
    assert (metrics.summary["AP50"], metrics.summary["AP75"]) == pytest.approx((1, 0))
    assert (metrics.per_class["cat"], metrics.per_class_50["cat"]) == pytest.approx((0.3, 1))


@each_backend
def test_a_duplicate_is_a_false_positive(backend: str) -> None:
    # True, false, true: precision 1 up to recall 0.5, then 2/3.
    ground_truth = coco([annotation(BOX), annotation(FAR)])
    detections = [detection(BOX, 0.9), detection(BOX, 0.8), detection(FAR, 0.7)]
    metrics = evaluate_detections(ground_truth, detections, backend)
    assert metrics.summary["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert metrics.summary["AR1"] == 0.5


@each_backend
def test_crowd_is_neither_sought_nor_a_false_positive(backend: str) -> None:
    ground_truth = coco([annotation(BOX), annotation([150.0, 150.0, 200.0, 200.0], iscrowd=1)])
    detections = [detection(FAR, 0.9), detection([160.0, 160.0, 20.0, 20.0], 0.8), detection(BOX, 0.1)]
    metrics = evaluate_detections(ground_truth, detections, backend)
    assert metrics.summary["AP"] == pytest.approx(1)
    only_crowd = evaluate_detections(coco([annotation(BOX, iscrowd=1)]), [detection(BOX)], backend)
    assert set(only_crowd.summary.values()) == {-1.0}


@each_backend
def test_ties_keep_the_order_of_the_list_and_of_image_ids(backend: str) -> None:
    ground_truth = coco([annotation(BOX)])
    right, wrong = detection(BOX), detection(FAR)
    assert evaluate_detections(ground_truth, [right, wrong], backend).summary["AP"] == pytest.approx(1)
    assert evaluate_detections(ground_truth, [wrong, right], backend).summary["AP"] == pytest.approx(0.5)
    # Between images the smaller id comes first, wherever it stands in the list.
    two_images = coco([annotation(BOX, image_id=20)], image_ids=(20, 3))
    ties = [detection(BOX, image_id=20), detection(BOX, image_id=3)]
    assert evaluate_detections(two_images, ties, backend).summary["AP"] == pytest.approx(0.5)


@each_backend
def test_area_decides_the_size_and_defaults_to_the_box(backend: str) -> None:
    small = coco([annotation(BOX, area=100.0)])  # a thin object in a box of medium size
    assert evaluate_detections(small, [detection(BOX)], backend).summary["APs"] == pytest.approx(1)
    boxes_alone = coco([annotation(BOX)])
    del boxes_alone["annotations"][0]["area"], boxes_alone["annotations"][0]["iscrowd"]
    assert evaluate_detections(boxes_alone, [detection(BOX)], backend).summary["APm"] == pytest.approx(1)


@each_backend
def test_classes_are_apart(backend: str) -> None:
    ground_truth = coco(
        [annotation(BOX, category_id=90), annotation(FAR, category_id=7)],
        names={90: "dog", 7: "cat", 8: "owl"},
    )
    metrics = evaluate_detections(ground_truth, [detection(BOX, category_id=90)], backend)
    assert metrics.per_class == {"cat": 0, "owl": None, "dog": pytest.approx(1)}
    assert metrics.summary["AP"] == pytest.approx(0.5)


# ---- little or nothing there ----------------------------------------------------------------------


@each_backend
def test_no_detections(backend: str) -> None:
    metrics = evaluate_detections(coco([annotation(BOX)]), [], backend)
    assert metrics.summary == dict.fromkeys(NAMES, 0.0) | dict.fromkeys(["APs", "APl", "ARs", "ARl"], -1.0)
    assert metrics.per_class == {"cat": 0}


@each_backend
@pytest.mark.parametrize(
    ("ground_truth", "detections"),
    [
        (coco([]), [detection(BOX)]),
        (coco([]), []),
        (coco([], image_ids=()), []),
        ({**coco([]), "categories": []}, []),
    ],
)
def test_no_ground_truth(backend: str, ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> None:
    metrics = evaluate_detections(ground_truth, detections, backend)
    assert list(metrics.summary) == NAMES
    assert set(metrics.summary.values()) == {-1.0}
    assert set(metrics.per_class.values()) <= {None}


# ---- ids, names, reuse ----------------------------------------------------------------------------


@each_backend
def test_huge_and_negative_ids(backend: str) -> None:
    huge = 2**63 + 12345  # past int64, and its neighbour is the same float64
    annotations = [annotation(BOX, image_id=huge, category_id=-4), annotation(FAR, image_id=huge + 1)]
    ground_truth = coco(annotations, image_ids=(huge, huge + 1, -9), names={-4: "a", 1: "b"})
    detections = [
        detection(BOX, 1e-300, image_id=huge, category_id=-4),
        detection(BOX, 0.5e-300, image_id=-9, category_id=-4),
        detection(FAR, 0.1, image_id=huge + 1),
    ]
    assert evaluate_detections(ground_truth, detections, backend).summary["AP"] == pytest.approx(1)


@each_backend
def test_chosen_images(backend: str) -> None:
    ground_truth = coco([annotation(BOX, image_id=5), annotation(FAR, image_id=6)], image_ids=(5, 6))
    detections = [detection(BOX, 0.9, image_id=6), detection(BOX, 0.5, image_id=5)]
    assert evaluate_detections(ground_truth, detections, backend).summary["AP50"] < 0.5
    chosen = evaluate_detections(ground_truth, detections, backend, image_ids=[5])
    assert chosen.summary["AP50"] == pytest.approx(1)
    with pytest.raises(DataError, match="no image with id 77"):
        CocoGroundTruth(ground_truth, image_ids=[5, 77])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({3: "cat", 1: "dog"}, ("dog", "cat")),
        ({1: "cat", 2: "dog", 5: "cat"}, ("cat (1)", "dog", "cat (5)")),
        ({1: "cat", 2: "cat", 3: "cat (1)"}, ("cat (1)", "cat (2)", "cat (1) (3)")),
    ],
)
def test_repeated_class_names(names: dict[int, str], expected: tuple[str, ...]) -> None:
    assert CocoGroundTruth(coco([], names=names)).class_names == expected


@each_backend
def test_evaluator_is_reusable_silent_and_changes_nothing(backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    ground_truth, detections = random_set(0)
    before = copy.deepcopy((ground_truth, detections))
    evaluator = CocoEvaluator(CocoGroundTruth(ground_truth), backend)
    first = evaluator.evaluate(detections)
    evaluator.evaluate([])
    evaluator.evaluate(detections[::2], (1, 10, 300))
    assert evaluator.evaluate(detections) == first
    assert (ground_truth, detections) == before
    assert capfd.readouterr() == ("", "")


# ---- rejected -------------------------------------------------------------------------------------


def test_unknown_backend() -> None:
    with pytest.raises(UserError, match=r"^backend 'fast' is unknown: choose one of pycocotools, hotcoco$"):
        evaluate_detections(coco([]), [], "fast")


@each_backend
def test_missing_package(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"sparse_rcnn.evaluation.{backend}_backend", raising=False)
    for module in (backend, f"{backend}.coco"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^backend '{backend}': .*pip install {backend}, or choose") as error:
        evaluate_detections(coco([]), [], backend)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("max_dets", [(1, 10), (10, 1, 100), (0, 10, 100), (1, 100, 100)])
def test_bad_max_dets(max_dets: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^max_dets \["):
        evaluate_detections(coco([]), [], "hotcoco", max_dets)

"""Run directories and COCO sets made by hand or by a seed, with known numbers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.__main__ import main

FINGERPRINT = "ab" * 32


def run_command(name: str, arguments: list[str]) -> int:
    """``python -m analysis NAME ...`` in this process."""
    return main([name, *arguments])


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_run(
    root: Path,
    experiment: str = "baseline",
    seed: int = 0,
    ap: float | None = 0.5,
    recipe: str = "mini",
    state: str = "finished",
    identity: str | None = None,
    names: tuple[str, ...] = (),
    dirty: bool = False,
    val: str = FINGERPRINT,
    config: dict[str, Any] | None = None,
    evaluations: dict[float, float] | None = None,
    **results: Any,
) -> Path:
    """A run directory; ``ap`` is a fraction, None leaves results.json out. ``results`` have __ for /."""
    identity = identity or hashlib.sha256(f"{experiment}/{recipe}".encode()).hexdigest()[:12]
    path = root / experiment / f"{identity}-seed{seed}"
    meta = {
        "schema_version": 1,
        "run_id": path.name,
        "identity": identity,
        "seed": seed,
        "experiment": experiment,
        "recipe": recipe,
        "created_at": f"2026-01-01T00:00:{seed:02d}+00:00",
        "git": {"sha": "0123456789" * 4, "dirty": dirty},
        "device": "cpu",
        "data": {
            "name": "shapes",
            "train": {"fingerprint": "cd" * 32, "num_images": 10, "annotations": "train.json"},
            "val": {"fingerprint": val, "num_images": 5, "annotations": "val.json"},
        },
        "resumes": [],
    }
    write_json(path / "meta.json", meta)
    write_json(path / "config.json", config or {})
    write_json(path / "status.json", {"state": state, "step": 7, "num_steps": 9, "epoch": 10.0})
    for epoch, value in (evaluations or {}).items():
        content = {"epoch": epoch, "metrics": {"val/bbox/AP": value}}
        write_json(path / "eval" / f"step_{int(100 * epoch):08d}.json", content)
    for name in names:
        (path / "names").mkdir(exist_ok=True)
        (path / "names" / name).touch()
    if ap is not None:
        numbers = {key.replace("__", "/"): value for key, value in results.items()}
        write_json(path / "results.json", {"val/bbox/AP": ap, **numbers})
    return path


def edit_meta(path: Path, **changes: Any) -> None:
    meta = json.loads((path / "meta.json").read_text())
    write_json(path / "meta.json", meta | changes)


def random_coco(
    seed: int, num_images: int = 30, num_classes: int = 4, max_boxes: int = 6, ties: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations with crowd boxes, a class without boxes and an image without any, and detections with ties in their
    scores; ids are neither contiguous nor sorted.
    """
    rng = np.random.default_rng(seed)
    image_ids = (rng.permutation(num_images) * 7 + 3).tolist()
    categories = [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(num_classes)]
    annotations, detections = [], []
    for rank, image_id in enumerate(image_ids):
        for _ in range(int(rng.integers(0, max_boxes + 1)) if rank else 0):
            box = [*rng.uniform(0, 150, 2), *rng.choice([12.0, 40.0, 120.0], 2) * rng.uniform(0.7, 1.3, 2)]
            category = int(rng.choice(categories[: num_classes - 1])["id"])  # the last class has no box
            record = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "bbox": box}
            record |= {"area": box[2] * box[3] * 0.8, "iscrowd": int(rng.random() < 0.15)}
            annotations.append(record)
            for _ in range(int(rng.integers(0, 4))):
                noisy = (np.array(box) + rng.normal(0, 0.07, 4) * [box[2], box[3], box[2], box[3]]).tolist()
                detections.append((image_id, category, noisy))
            if rng.random() < 0.3:
                detections.append((image_id, category, list(box)))
        for _ in range(int(rng.integers(0, 4))):
            category = int(rng.choice(categories)["id"])
            detections.append((image_id, category, [*rng.uniform(0, 150, 2), *rng.uniform(5, 130, 2)]))
    scores = rng.random(len(detections))
    if ties:
        scores = np.round(scores, 1)
    found = [
        {"image_id": i, "category_id": c, "bbox": [float(v) for v in b], "score": float(s)}
        for (i, c, b), s in zip(detections, scores, strict=True)
    ]
    for record in annotations:
        record["bbox"] = [float(value) for value in record["bbox"]]
        record["area"] = float(record["area"])
    images = [{"id": i, "width": 400, "height": 400, "file_name": f"{i}.jpg"} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, found


def pycocotools_precision(
    coco: dict[str, Any], detections: list[dict[str, Any]], max_det: int = 100, image_ids: list[int] | None = None
) -> np.ndarray:
    """pycocotools' own precision array at ``max_det``: (10 IoU thresholds, 101 recalls, K classes, 4 areas)."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(coco))
        truth.createIndex()
        found = truth.loadRes(json.loads(json.dumps(detections)))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = [1, 10, max_det]
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def mean_of(precision: np.ndarray) -> float:
    """The mean as pycocotools' summary takes it."""
    return float(precision[precision > -1].mean())


def make_evaluated_run(
    root: Path,
    experiment: str,
    coco: dict[str, Any],
    detections: list[dict[str, Any]],
    seed: int = 0,
    stages: list[list[dict[str, Any]]] | None = None,
    **options: Any,
) -> Path:
    """A finished run with detections, and its annotations at ``root.parent/val.json``, where they are looked for."""
    content = json.dumps(coco).encode()
    (root.parent / "val.json").write_bytes(content)
    precision = pycocotools_precision(coco, detections)[..., 0]
    path = make_run(root, experiment, seed, mean_of(precision), val=hashlib.sha256(content).hexdigest(), **options)
    data = json.loads((path / "meta.json").read_text())["data"]
    data["val"]["num_images"] = len(coco["images"])
    edit_meta(path, data=data)
    write_json(path / "detections.json", detections)
    if stages is not None:
        records = [record for stage in stages for record in stage]
        np.savez_compressed(
            path / "stage_detections.npz",
            stages=np.repeat(np.arange(len(stages), dtype=np.uint8), [len(stage) for stage in stages]),
            image_ids=np.array([r["image_id"] for r in records], np.int64),
            category_ids=np.array([r["category_id"] for r in records], np.int64),
            boxes_xywh_abs=np.array([r["bbox"] for r in records], np.float32).reshape(-1, 4),
            scores=np.array([r["score"] for r in records], np.float32),
        )
    return path

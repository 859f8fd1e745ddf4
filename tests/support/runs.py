"""Run directories with known numbers, as docs/run_directory.md has them.

`write_run` writes one from its parts, `make_bare_run` the least that is one. `make_run` is a run as tables read it:
final numbers and a few AP values, on known data. `make_logged_run` is a run as the dashboard reads it: with its
training events and whole evaluations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.coco_numbers import mean_of, pycocotools_precision

FINGERPRINT = "ab" * 32
START = 1767225600.0  # 2026-01-01 00:00 UTC
STARTED_AT = "2026-01-01T00:00:00+00:00"
CLASSES = ("disc", "square", "triangle")
RECALLS = 101


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_run(
    path: Path,
    meta: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    results: Mapping[str, float] | None = None,
    events: Iterable[str] | None = None,
    evaluations: Mapping[int, Mapping[str, Any]] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """A run directory of these contents; ``evaluations`` by step. What is None is left out.

    ``meta`` is added to what every run's has: the schema version and the folder's name as the run's.
    """
    write_json(path / "meta.json", {"schema_version": 1, "run_id": path.name, **meta})
    for name, content in (("config", config), ("status", status), ("results", results)):
        if content is not None:
            write_json(path / f"{name}.json", content)
    for step, evaluation in (evaluations or {}).items():
        write_json(path / "eval" / f"step_{step:08d}.json", evaluation)
    if events is not None:
        (path / "metrics.jsonl").write_text("".join(events))
    for name in names:
        (path / "names").mkdir(exist_ok=True)
        (path / "names" / name).touch()
    return path


def make_bare_run(root: Path, experiment: str = "base", run_id: str = "0123456789ab-seed0", version: int = 1) -> Path:
    """A run that has only begun: what names it, and a configuration."""
    return write_run(
        root / experiment / run_id, {"schema_version": version, "experiment": experiment}, config={"seed": 0}
    )


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
    """A run without events; ``ap`` is a fraction, None leaves results.json out. ``results`` have __ for /.

    ``evaluations`` are AP by epoch. Without ``identity``, runs of one experiment and recipe share one.
    """
    identity = identity or hashlib.sha256(f"{experiment}/{recipe}".encode()).hexdigest()[:12]
    numbers = {key.replace("__", "/"): value for key, value in results.items()}
    return write_run(
        root / experiment / f"{identity}-seed{seed}",
        meta={
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
        },
        config=config or {},
        status={"state": state, "step": 7, "num_steps": 9, "epoch": 10.0},
        results=None if ap is None else {"val/bbox/AP": ap, **numbers},
        evaluations={
            int(100 * epoch): {"epoch": epoch, "metrics": {"val/bbox/AP": value}}
            for epoch, value in (evaluations or {}).items()
        },
        names=names,
    )


def edit_meta(path: Path, **changes: Any) -> None:
    meta = json.loads((path / "meta.json").read_text())
    write_json(path / "meta.json", meta | changes)


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


def event(name: str, step: int, metrics: dict[str, Any], time: float | None = None) -> str:
    """A line of metrics.jsonl; one step takes a second, an epoch is 100 steps."""
    item = {"event": name, "step": step, "epoch": step / 100, "time": START + step if time is None else time}
    return json.dumps({**item, "metrics": metrics}) + "\n"


def bbox_metrics(ap: float, num_stages: int = 3) -> dict[str, float]:
    """AP of the detector, and of stage s an (s + 1)th part of its way there; APl is without ground truth.

    A detector without stages has 0.
    """
    found = {}
    parts = {"bbox": 1.0, **{f"stage_{s}": (s + 1) / num_stages for s in range(num_stages)}}
    for name, part in parts.items():
        values = {"AP": ap, "AP50": ap + 0.2, "AP75": ap + 0.1, "APs": ap - 0.1, "APm": ap, "APl": -1.0}
        found.update({f"val/{name}/{key}": value * part if value >= 0 else -1.0 for key, value in values.items()})
    return found


def small_config(**changes: Any) -> dict[str, Any]:
    """A small configuration; `num_stages` and `seed` may be changed, and any top-level key."""
    num_stages = changes.pop("num_stages", 3)
    base: dict[str, Any] = {
        "num_stages": num_stages,
        "dropout": 0.0,
        "seed": 0,
        "runs_root": "runs",
        "model": {
            "_target_": "library.StagedDetector",
            "num_stages": num_stages,
            "proposals": {"init": {"_target_": "sparse_rcnn.box_init.ImageInit"}},
        },
        "optim": {"lr": 0.0005, "betas": [0.9, 0.999]},
        "log": {"progress": True},
    }
    return {**base, **changes}


def config_without_stages(**changes: Any) -> dict[str, Any]:
    """The configuration of a detector without stages and learned boxes, with NMS of its own: those axes are null."""
    model = {"_target_": "library.OneShotDetector", "backbone": {"depth": 50}, "nms_threshold": 0.5}
    return small_config(num_stages=None, **{"num_proposals": None, "model": model, **changes})


def make_logged_run(
    root: Path,
    experiment: str = "baseline",
    seed: int = 0,
    identity: str = "0123456789ab",
    *,
    folder: str | None = None,
    ap: float = 0.5,
    state: str = "finished",
    recipe: str = "mini",
    num_steps: int = 300,
    num_events: int = 30,
    num_stages: int = 3,
    classes: Sequence[str] = CLASSES,
    precision_recall: bool = True,
    config: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """A run with training events, an evaluation at half its steps and one at the end; returns its path.

    Without a configuration of its own it has `small_config`, or `config_without_stages` where it has 0 stages.

    The loss at step k is 10 - 9 k / num_steps. Half-way AP is half of `ap`.
    """
    done = num_steps if state == "finished" else num_steps // 2
    events = []
    for index in range(1, num_events + 1):
        step = index * num_steps // num_events
        if step <= done:
            total = 10 - 9 * step / num_steps
            events.append(event("train", step, {"train/loss/total": total, "train/loss/loss_l1": total / 2}))
    evaluations = {}
    for step in (num_steps // 2, num_steps):
        if step <= done:
            metrics = bbox_metrics(ap * step / num_steps, num_stages)
            events.append(event("eval", step, metrics, START + step + 0.5))
            content: dict[str, Any] = {"step": step, "epoch": step / 100, "split": "val", "metrics": metrics}
            content["per_class"] = {name: {"AP": ap - 0.1 * i, "AP50": ap + 0.1} for i, name in enumerate(classes)}
            if precision_recall:
                curve = [round(1 - 0.005 * recall, 3) for recall in range(RECALLS)]
                content["precision_recall"] = {"0.50:0.95": curve, "0.50": [*curve[:-1], 0.25], "0.75": [-1] * RECALLS}
            evaluations[step] = content
    results = {**bbox_metrics(ap, num_stages), "train/time/seconds": 250.0, "model/size/num_parameters": 12}
    return write_run(
        root / (folder or experiment) / f"{identity}-seed{seed}",
        meta={
            "identity": identity,
            "experiment": experiment,
            "recipe": recipe,
            "seed": seed,
            "created_at": STARTED_AT,
            "git": {"sha": "ab" * 20, "dirty": False},
            "device": "cpu",
            "data": {"name": "shapes"},
            "resumes": [],
            **(meta or {}),
        },
        config=config or (small_config(seed=seed) if num_stages else config_without_stages(seed=seed)),
        status={
            "state": state,
            "step": done,
            "num_steps": num_steps,
            "epoch": done / 100,
            "started_at": STARTED_AT,
            "updated_at": STARTED_AT,
            "error": "it broke" if state == "failed" else None,
        },
        results=results if state == "finished" else None,
        events=events,
        evaluations=evaluations,
    )

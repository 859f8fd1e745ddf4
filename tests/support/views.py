"""Run directories with known numbers, as docs/run_directory.md has them, for the tests of the dashboard."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

START = 1767225600.0  # 2026-01-01 00:00 UTC
STARTED_AT = "2026-01-01T00:00:00+00:00"
CLASSES = ("disc", "square", "triangle")
RECALLS = 101


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def event(name: str, step: int, metrics: dict[str, Any], time: float | None = None) -> str:
    """A line of metrics.jsonl; one step takes a second, an epoch is 100 steps."""
    item = {"event": name, "step": step, "epoch": step / 100, "time": START + step if time is None else time}
    return json.dumps({**item, "metrics": metrics}) + "\n"


def bbox_metrics(ap: float, num_stages: int = 3) -> dict[str, float]:
    """AP of the detector, and of stage s an (s + 1)th part of its way there; APl is without ground truth."""
    found = {}
    parts = {"bbox": 1.0, **{f"stage_{s}": (s + 1) / num_stages for s in range(num_stages)}}
    for name, part in parts.items():
        values = {"AP": ap, "AP50": ap + 0.2, "AP75": ap + 0.1, "APs": ap - 0.1, "APm": ap, "APl": -1.0}
        found.update({f"val/{name}/{key}": value * part if value >= 0 else -1.0 for key, value in values.items()})
    return found


def config(**changes: Any) -> dict[str, Any]:
    """A small configuration; `num_stages` and `seed` may be changed, and any top-level key."""
    num_stages = changes.pop("num_stages", 3)
    base: dict[str, Any] = {
        "num_stages": num_stages,
        "dropout": 0.0,
        "seed": 0,
        "runs_root": "runs",
        "model": {"num_stages": num_stages, "proposals": {"init": {"_target_": "sparse_rcnn.box_init.ImageInit"}}},
        "optim": {"lr": 0.0005, "betas": [0.9, 0.999]},
        "log": {"progress": True},
    }
    return {**base, **changes}


def make_run(
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
    classes: Sequence[str] = CLASSES,
    precision_recall: bool = True,
    settings: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """A run with training events, an evaluation at half its steps and one at the end; returns its path.

    The loss at step k is 10 - 9 k / num_steps. Half-way AP is half of `ap`.
    """
    path = root / (folder or experiment) / f"{identity}-seed{seed}"
    write(
        path / "meta.json",
        {
            "schema_version": 1,
            "run_id": f"{identity}-seed{seed}",
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
    )
    write(path / "config.json", config(seed=seed) if settings is None else settings)
    done = num_steps if state == "finished" else num_steps // 2
    write(
        path / "status.json",
        {"state": state, "step": done, "num_steps": num_steps, "epoch": done / 100, "started_at": STARTED_AT,
         "updated_at": STARTED_AT, "error": "it broke" if state == "failed" else None},
    )  # fmt: skip
    lines = []
    for index in range(1, num_events + 1):
        step = index * num_steps // num_events
        if step <= done:
            total = 10 - 9 * step / num_steps
            lines.append(event("train", step, {"train/loss/total": total, "train/loss/loss_l1": total / 2}))
    for step in (num_steps // 2, num_steps):
        if step <= done:
            metrics = bbox_metrics(ap * step / num_steps)
            lines.append(event("eval", step, metrics, START + step + 0.5))
            content = {"step": step, "epoch": step / 100, "split": "val", "metrics": metrics}
            aps = {name: {"AP": ap - 0.1 * i, "AP50": ap + 0.1} for i, name in enumerate(classes)}
            content["per_class"] = aps
            if precision_recall:
                curve = [round(1 - 0.005 * recall, 3) for recall in range(RECALLS)]
                content["precision_recall"] = {"0.50:0.95": curve, "0.50": [*curve[:-1], 0.25], "0.75": [-1] * RECALLS}
            write(path / "eval" / f"step_{step:08d}.json", content)
    (path / "metrics.jsonl").write_text("".join(lines))
    if state == "finished":
        write(path / "results.json", {**bbox_metrics(ap), "train/time/seconds": 250.0, "model/size/num_parameters": 12})
    return path


def jpeg(width: int, height: int, seed: int) -> bytes:
    """A picture of some size in bytes: noise does not compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, format="JPEG", quality=90)
    return file.getvalue()


def view_content(
    image_id: int,
    num_stages: int = 3,
    num_proposals: int = 10,
    *,
    size: tuple[int, int] = (160, 120),
    classes: Sequence[str] = CLASSES,
    responses: bool = True,
) -> dict[str, Any]:
    """The content of a view of random boxes; the score of proposal p in stage s is (p + 1) / P * (s + 1) / S."""
    rng = np.random.default_rng(image_id)
    width, height = size

    def boxes(count: int) -> list[list[float]]:
        corners = rng.uniform(-0.1, 0.7, (count, 2))
        ends = corners + rng.uniform(0.1, 0.5, (count, 2))
        return (np.concatenate([corners, ends], 1) * [width, height, width, height]).round(1).tolist()

    levels = rng.integers(0, 256, (num_stages, num_proposals, 7, 7), np.uint8)
    packed = {"shape": list(levels.shape), "uint8_base64": base64.b64encode(levels.tobytes()).decode()}
    return {
        "step": 300,
        "image_id": image_id,
        "file_name": f"{image_id:06d}.png",
        "height": height,
        "width": width,
        "class_names": list(classes),
        "ground_truth": {"boxes_xyxy_abs": boxes(2), "labels": [0, 1]},
        "proposals_xyxy_abs": boxes(num_proposals),
        "stages": [
            {
                "boxes_xyxy_abs": boxes(num_proposals),
                "scores": [round((p + 1) / num_proposals * (s + 1) / num_stages, 4) for p in range(num_proposals)],
                "labels": [p % len(classes) for p in range(num_proposals)],
            }
            for s in range(num_stages)
        ],
        "responses": packed if responses else None,
    }


def add_views(path: Path, contents: Sequence[dict[str, Any]]) -> None:
    """Write views and their pictures into a run."""
    (path / "views").mkdir(exist_ok=True)
    for content in contents:
        image_id = content["image_id"]
        write(path / "views" / f"{image_id}.json", content)
        (path / "views" / f"{image_id}.jpg").write_bytes(jpeg(content["width"], content["height"], image_id))

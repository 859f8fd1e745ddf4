"""Views of images with random boxes, as docs/run_directory.md has them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.runs import CLASSES, write_json


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
    has_stages: bool = True,
    has_proposals: bool = True,
) -> dict[str, Any]:
    """The content of a view of random boxes; the score of proposal p in stage s is (p + 1) / P * (s + 1) / S.

    A detector without stages has one entry, its detections.
    """
    rng = np.random.default_rng(image_id)
    width, height = size

    def boxes(count: int) -> list[list[float]]:
        corners = rng.uniform(-0.1, 0.7, (count, 2))
        ends = corners + rng.uniform(0.1, 0.5, (count, 2))
        return (np.concatenate([corners, ends], 1) * [width, height, width, height]).round(1).tolist()

    levels = rng.integers(0, 256, (num_stages, num_proposals, 7, 7), np.uint8)
    packed = {"shape": list(levels.shape), "uint8_base64": base64.b64encode(levels.tobytes()).decode()}
    return {
        **({} if has_stages else {"has_stages": False}),
        "step": 300,
        "image_id": image_id,
        "file_name": f"{image_id:06d}.png",
        "height": height,
        "width": width,
        "class_names": list(classes),
        "ground_truth": {"boxes_xyxy_abs": boxes(2), "labels": [0, 1]},
        "proposals_xyxy_abs": boxes(num_proposals) if has_proposals else None,
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


def view_without_stages(image_id: int, num_detections: int = 6, **options: Any) -> dict[str, Any]:
    """The content of a view of a detector without stages and learned boxes."""
    return view_content(image_id, 1, num_detections, responses=False, has_stages=False, has_proposals=False, **options)


def add_views(path: Path, contents: Sequence[dict[str, Any]]) -> None:
    """Write views and their pictures into a run."""
    (path / "views").mkdir(exist_ok=True)
    for content in contents:
        image_id = content["image_id"]
        write_json(path / "views" / f"{image_id}.json", content)
        (path / "views" / f"{image_id}.jpg").write_bytes(jpeg(content["width"], content["height"], image_id))

"""The views of a run: its detector on a few validation images, stage by stage, as arrays."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.reader import Run

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One validation image with what every stage makes of it; boxes in pixels of the image.

    Shapes: ``proposals_xyxy_abs`` (P, 4); ``boxes_xyxy_abs`` (S, P, 4), ``scores`` and ``labels`` (S, P); ``responses``
    (S, P, h, w) in 0..1, 1 the largest of each stage, None for heads that filter nothing; ``truth_boxes_xyxy_abs``
    (M, 4), ``truth_labels`` (M,). ``picture`` is the file of the image, perhaps scaled down.
    """

    image_id: int
    file_name: str
    step: int
    size_hw: tuple[int, int]
    class_names: list[str]
    picture: Path
    proposals_xyxy_abs: FloatArray
    boxes_xyxy_abs: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]
    responses: FloatArray | None
    truth_boxes_xyxy_abs: FloatArray
    truth_labels: npt.NDArray[np.int64]


def view_ids(run: Run) -> list[int]:
    """The ids of the images that a run has views of, sorted."""
    return sorted(int(path.stem) for path in (run.path / layout.VIEWS).glob("*.json") if path.stem.isdecimal())


def read_view(run: Run, image_id: int) -> View:
    """The view of an image.

    Raises:
        UserError: the run has no view of this image, or a damaged one; names the ids that it has.
    """
    path = run.path / layout.VIEWS / f"{image_id}.json"
    if not path.is_file():
        known = ", ".join(map(str, view_ids(run))) or "none"
        raise UserError(
            f"{run.path} has no view of image {image_id} (it has: {known}); for any other image: "
            f"python -m experiments.predict {run.path} IMAGE --stages --out FOLDER"
        )
    try:
        content = json.loads(path.read_bytes())
        stages = content["stages"]
        return View(
            image_id=image_id,
            file_name=content["file_name"],
            step=content["step"],
            size_hw=(content["height"], content["width"]),
            class_names=content["class_names"],
            picture=path.with_suffix(".jpg"),
            proposals_xyxy_abs=_boxes(content["proposals_xyxy_abs"]),
            boxes_xyxy_abs=np.stack([_boxes(stage["boxes_xyxy_abs"]) for stage in stages]),
            scores=np.array([stage["scores"] for stage in stages], dtype=np.float64),
            labels=np.array([stage["labels"] for stage in stages], dtype=np.int64),
            responses=_unpacked(content["responses"]),
            truth_boxes_xyxy_abs=_boxes(content["ground_truth"]["boxes_xyxy_abs"]),
            truth_labels=np.array(content["ground_truth"]["labels"], dtype=np.int64),
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no view of this program: {type(error).__name__}: {error}") from error


def _boxes(values: Any) -> FloatArray:
    return np.array(values, dtype=np.float64).reshape(-1, 4)


def _unpacked(responses: dict[str, Any] | None) -> FloatArray | None:
    if responses is None:
        return None
    levels = np.frombuffer(base64.b64decode(responses["uint8_base64"]), dtype=np.uint8)
    return levels.reshape(responses["shape"]).astype(np.float64) / 255

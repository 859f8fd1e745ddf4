"""Views of a run: its detector on a few validation images, stage by stage, as arrays and as files of ``views/``."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.json_files import read_sealed_object
from sparse_rcnn.rundir.own_digest import sealed_json
from sparse_rcnn.rundir.reader import Run

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class View:
    """One validation image with every stage's output; boxes in pixels of the image.

    Of a detector without stages (``has_stages`` false) S is 1, and the boxes are its detections.

    Shapes: ``proposals_xyxy_abs`` (P, 4), None for a detector without learned boxes; ``boxes_xyxy_abs`` (S, P, 4),
    ``scores`` and ``labels`` (S, P), those of the best class; ``responses`` (S, P, h, w), 1 the largest of each stage,
    None for heads that filter nothing; ``truth_boxes_xyxy_abs`` (M, 4), ``truth_labels`` (M,). ``picture``: the image
    (H, W, 3) in a training, its file, perhaps scaled down, in a run that is read.
    """

    image_id: int
    file_name: str
    step: int
    size_hw: tuple[int, int]
    class_names: list[str]
    picture: npt.NDArray[np.uint8] | Path
    has_stages: bool
    proposals_xyxy_abs: FloatArray | None
    boxes_xyxy_abs: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]
    responses: FloatArray | None
    truth_boxes_xyxy_abs: FloatArray
    truth_labels: npt.NDArray[np.int64]


def write_view(folder: Path, view: View) -> None:
    """Write ``<image id>.json``; boxes to 0.1 pixels, scores to 4 digits, responses to 8 bits."""
    stages = zip(view.boxes_xyxy_abs, view.scores, view.labels, strict=True)
    content = {
        "step": view.step,
        "image_id": view.image_id,
        "file_name": view.file_name,
        "height": view.size_hw[0],
        "width": view.size_hw[1],
        "class_names": view.class_names,
        "ground_truth": {
            "boxes_xyxy_abs": _rounded(view.truth_boxes_xyxy_abs, 1),
            "labels": view.truth_labels.tolist(),
        },
        **({} if view.has_stages else {"has_stages": False}),
        "proposals_xyxy_abs": None if view.proposals_xyxy_abs is None else _rounded(view.proposals_xyxy_abs, 1),
        "stages": [
            {"boxes_xyxy_abs": _rounded(boxes, 1), "scores": _rounded(scores, 4), "labels": labels.tolist()}
            for boxes, scores, labels in stages
        ],
        "responses": None if view.responses is None else _packed(view.responses),
    }
    data = sealed_json(content, separators=(",", ":"), allow_nan=False)
    write_bytes_atomic(folder / f"{view.image_id}.json", data)


def view_ids(run: Run) -> list[int]:
    """The ids of the images that a run has views of, sorted."""
    return sorted(int(path.stem) for path in (run.path / layout.VIEWS).glob("*.json") if path.stem.isdecimal())


def picture_path(folder: Path, image_id: int) -> Path:
    """The file of a view's image in a folder of views."""
    return folder / f"{image_id}.jpg"


def read_view(run: Run, image_id: int) -> View:
    """The view of an image.

    Raises:
        RunError: the run has no view of this image, or a damaged one; names the ids that it has.
    """
    path = run.path / layout.VIEWS / f"{image_id}.json"
    if not path.is_file():
        known = ", ".join(map(str, view_ids(run))) or "none"
        raise RunError(f"{run.path} has no view of image {image_id} (it has: {known})")
    try:
        content = read_sealed_object(path)
        stages, truth = content["stages"], content["ground_truth"]
        proposals = content["proposals_xyxy_abs"]
        return View(
            image_id=image_id,
            file_name=content["file_name"],
            step=content["step"],
            size_hw=(content["height"], content["width"]),
            class_names=content["class_names"],
            picture=picture_path(run.path / layout.VIEWS, image_id),
            has_stages=content.get("has_stages", True) is not False,
            proposals_xyxy_abs=None if proposals is None else _boxes(proposals),
            boxes_xyxy_abs=np.stack([_boxes(stage["boxes_xyxy_abs"]) for stage in stages]),
            scores=np.array([stage["scores"] for stage in stages], dtype=np.float64),
            labels=np.array([stage["labels"] for stage in stages], dtype=np.int64),
            responses=_unpacked(content["responses"]),
            truth_boxes_xyxy_abs=_boxes(truth["boxes_xyxy_abs"]),
            truth_labels=np.array(truth["labels"], dtype=np.int64),
        )
    except RunError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a view of this program: {type(error).__name__}: {error}") from error


def _boxes(values: Any) -> FloatArray:
    return np.array(values, dtype=np.float64).reshape(-1, 4)


def _rounded(values: FloatArray, num_digits: int) -> Any:
    # In Python and not in float32, whose 0.1 is written 0.10000000149.
    if values.ndim > 1:
        return [_rounded(row, num_digits) for row in values]
    return [round(value, num_digits) for value in np.nan_to_num(values).tolist()]


def _packed(responses: FloatArray) -> dict[str, Any]:
    """(S, P, h, w) as bytes; 255 is the largest response of each stage."""
    largest = responses.reshape(len(responses), -1).max(axis=1, initial=1e-12)
    levels = (255 * responses / largest[:, None, None, None]).round().astype(np.uint8)
    return {"shape": list(levels.shape), "uint8_base64": base64.b64encode(levels.tobytes()).decode()}


def _unpacked(responses: dict[str, Any] | None) -> FloatArray | None:
    if responses is None:
        return None
    levels = np.frombuffer(base64.b64decode(responses["uint8_base64"]), dtype=np.uint8)
    return levels.reshape(responses["shape"]).astype(np.float64) / 255

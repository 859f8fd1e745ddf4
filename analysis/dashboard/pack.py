"""A view in few bytes: boxes quantised, its picture and ground truth apart so that runs can share them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import FloatArray, View, read_view

JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class PackedView:
    """One validation image of a run.

    Attributes:
        scene: what all runs of the data share: image id, file name, size, classes, ground truth, key of the picture.
        picture: the JPEG in base64, "" without one.
        numbers: what this run made of it; `boxes` are the learned proposals, if it `has_proposals`, and then every
            stage's, (S + 1, P, 4) or (S, P, 4) uint16 in base64, from -1 to 2 times the longer side; `scores` (S, P)
            uint8; `labels` (S, P) of `label_bytes` each. Not `has_stages`: S is 1, its detections.
        responses: (S, P, h, w) uint8 in base64, or None.
        problems: what is missing.
    """

    scene: dict[str, Any]
    picture: str
    numbers: dict[str, Any]
    responses: str | None
    problems: list[str]

    @cached_property
    def scene_key(self) -> str:
        """Equal for equal scenes."""
        return hashlib.sha1(json.dumps(self.scene, sort_keys=True).encode()).hexdigest()

    @cached_property
    def key(self) -> str:
        """Equal for equal views."""
        content = json.dumps([self.scene_key, self.numbers, self.responses], sort_keys=True)
        return hashlib.sha1(content.encode()).hexdigest()


def pack_view(run: Run, image_id: int) -> PackedView:
    """The view of an image.

    Raises:
        UserError: it is damaged.
    """
    view = read_view(run, image_id)
    _check(view)
    assert isinstance(view.picture, Path)
    picture, problems = _picture(view.picture)
    height, width = view.size_hw
    proposals = view.proposals_xyxy_abs
    boxes = view.boxes_xyxy_abs if proposals is None else np.concatenate([proposals[None], view.boxes_xyxy_abs])
    label_type = "<u1" if view.labels.max(initial=0) < 256 else "<u2"
    scene = {
        "image_id": image_id,
        "file_name": str(view.file_name),
        "height": height,
        "width": width,
        "classes": [str(name) for name in view.class_names],
        "truth_boxes": view.truth_boxes_xyxy_abs.round(1).tolist(),
        "truth_labels": view.truth_labels.tolist(),
        "picture": hashlib.sha1(picture.encode()).hexdigest() if picture else None,
    }
    numbers = {
        "step": int(view.step),
        "has_stages": view.has_stages,
        "has_proposals": proposals is not None,
        "stages": view.scores.shape[0],
        "proposals": view.scores.shape[1],
        "boxes": _text(quantised(boxes, max(height, width)).tobytes()),
        "scores": _text((255 * view.scores.clip(0, 1)).round().astype("<u1").tobytes()),
        "labels": _text(view.labels.astype(label_type).tobytes()),
        "label_bytes": np.dtype(label_type).itemsize,
        "cells": None if view.responses is None else view.responses.shape[-1],
    }
    responses = None
    if view.responses is not None:
        responses = _text((255 * view.responses.clip(0, 1)).round().astype("<u1").tobytes())
    return PackedView(scene, picture, numbers, responses, problems)


def quantised(boxes_abs: FloatArray, side: int) -> np.ndarray:
    """Coordinates as uint16 from -1 to 2 times the image's longer side; beyond, an edge is out of sight anyway."""
    return (65535 * ((boxes_abs / side + 1) / 3).clip(0, 1)).round().astype("<u2")


def _check(view: View) -> None:
    num_stages, num_proposals = view.scores.shape if view.scores.ndim == 2 else (-1, -1)
    num_classes, num_truth = len(view.class_names), len(view.truth_labels)
    shapes = [
        view.boxes_xyxy_abs.shape == (num_stages, num_proposals, 4),
        view.labels.shape == (num_stages, num_proposals),
        view.proposals_xyxy_abs is None or view.proposals_xyxy_abs.shape == (num_proposals, 4),
        view.has_stages or num_stages == 1,
        view.truth_boxes_xyxy_abs.shape == (num_truth, 4),
        view.responses is None
        or (
            view.responses.shape[:2] == (num_stages, num_proposals)
            and view.responses.shape[2] == view.responses.shape[3]
        ),
        all(type(side) is int and side > 0 for side in view.size_hw),
        view.labels.min(initial=0) >= 0 and view.labels.max(initial=0) < min(max(num_classes, 1), 65536),
        all(np.isfinite(values).all() for values in (view.boxes_xyxy_abs, view.scores, view.truth_boxes_xyxy_abs)),
        view.proposals_xyxy_abs is None or np.isfinite(view.proposals_xyxy_abs).all(),
    ]
    if not all(shapes):
        raise UserError(
            f"the view of image {view.image_id} is damaged: its boxes, scores and labels do not fit together"
        )


def _picture(path: Path) -> tuple[str, list[str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", [f"{path} cannot be read: {error.strerror}"]
    if not content.startswith(JPEG):
        return "", [f"{path} is not a JPEG"]
    return _text(content), []


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

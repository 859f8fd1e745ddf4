"""Evaluation of COCO results with a backend of choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.errors import UserError
from sparse_rcnn.evaluation.detections import DetectionColumns
from sparse_rcnn.evaluation.ground_truth import CocoGroundTruth
from sparse_rcnn.evaluation.metrics import COCO_MAX_DETS, CocoMetrics, summarise

BACKENDS = ("pycocotools", "hotcoco")


class Backend(Protocol):
    """Matches detections with a ground truth and accumulates precision and recall."""

    def accumulate(
        self, detections: DetectionColumns, max_dets: tuple[int, int, int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...


class CocoEvaluator:
    """Evaluates any number of detection sets (stages, epochs) on one ground truth.

    Args: ``ground_truth``; ``backend``: 'pycocotools', the reference, or 'hotcoco', the fast one.
    Raises: UserError for a backend that is unknown or whose package is missing.
    """

    def __init__(self, ground_truth: CocoGroundTruth, backend: str) -> None:
        self.ground_truth = ground_truth
        self.backend = backend
        self._backend = _make_backend(ground_truth, backend)

    def evaluate(
        self,
        detections: Sequence[Mapping[str, Any]] | DetectionTable,
        max_dets: Sequence[int] = COCO_MAX_DETS,
    ) -> CocoMetrics:
        """The COCO metrics of ``detections``, COCO results or a table, which stay as they are.

        ``max_dets``: three increasing counts of detections an image; all numbers but the first two ARs are
        taken at the last.

        Raises: DataError for detections that do not fit the ground truth, UserError for other ``max_dets``.
        """
        if len(max_dets) != 3 or not 0 < max_dets[0] < max_dets[1] < max_dets[2]:
            raise UserError(f"max_dets {list(max_dets)}: give three increasing counts, such as 1, 10, 100")
        first, second, last = (int(count) for count in max_dets)
        if isinstance(detections, DetectionTable):
            columns = DetectionColumns.from_table(detections, self.ground_truth)
        else:
            columns = DetectionColumns.from_coco(detections, self.ground_truth)
        precision, recall = self._backend.accumulate(columns, (first, second, last))
        return summarise(precision, recall, self.ground_truth.class_names, (first, second, last))


def evaluate_detections(
    annotations: Path | str | Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    backend: str,
    max_dets: Sequence[int] = COCO_MAX_DETS,
    image_ids: Sequence[int] | None = None,
) -> CocoMetrics:
    """Evaluate once; to evaluate often, build a ``CocoEvaluator`` and keep it.

    ``annotations``: path or loaded JSON in COCO format; ``detections``: COCO results; ``image_ids``: the
    images to evaluate, all for None.

    Raises: DataError and UserError as ``CocoGroundTruth`` and ``CocoEvaluator`` do.
    """
    return CocoEvaluator(CocoGroundTruth(annotations, image_ids), backend).evaluate(detections, max_dets)


def _make_backend(ground_truth: CocoGroundTruth, backend: str) -> Backend:
    """The packages are imported here, so that only the chosen one has to be installed."""
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is unknown: choose one of {', '.join(BACKENDS)}")
    try:
        if backend == "hotcoco":
            from sparse_rcnn.evaluation.hotcoco_backend import HotcocoBackend

            return HotcocoBackend(ground_truth)
        from sparse_rcnn.evaluation.pycocotools_backend import PycocotoolsBackend

        return PycocotoolsBackend(ground_truth)
    except ImportError as error:
        other = BACKENDS[1 - BACKENDS.index(backend)]
        raise UserError(
            f"backend {backend!r}: the package cannot be imported ({error}): pip install {backend}, or choose {other!r}"
        ) from None

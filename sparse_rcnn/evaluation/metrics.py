"""The twelve COCO numbers and per-class AP, from the precision and recall arrays of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

COCO_MAX_DETS = (1, 10, 100)
"""Detections an image that the COCO protocol counts for AR1, AR10 and for everything else."""

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_IOU_50, _IOU_75 = 0, 5  # of the thresholds 0.50, 0.55, ... 0.95

PRECISION_RECALL_IOUS = {
    "0.50:0.95": slice(None),
    "0.50": slice(_IOU_50, _IOU_50 + 1),
    "0.75": slice(_IOU_75, _IOU_75 + 1),
}
"""The IoU thresholds of the precision-recall curves: their mean, and two of them."""


@dataclass(frozen=True)
class CocoMetrics:
    """Result of one evaluation.

    ``summary``: the twelve numbers in COCO's order, AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, as
    fractions; -1 where there is no ground truth of that kind, as in pycocotools. The numbers in the AR names
    are ``max_dets``, and AP is taken at the last of them. ``per_class`` and ``per_class_50``: AP and AP50 by
    class name in the order of the category ids, None where a class has no ground truth. ``precision_recall``: at
    the recalls 0, 0.01, ... 1 the precision averaged over classes, by IoU threshold (``PRECISION_RECALL_IOUS``).
    """

    summary: dict[str, float]
    per_class: dict[str, float | None]
    per_class_50: dict[str, float | None]
    max_dets: tuple[int, int, int]
    precision_recall: dict[str, list[float]]

    def flat(self, prefix: str) -> dict[str, float]:
        """The twelve numbers under ``prefix/name`` (``val/bbox/AP``)."""
        return {f"{prefix}/{name}": value for name, value in self.summary.items()}


def summarise(
    precision: npt.NDArray[np.float64],
    recall: npt.NDArray[np.float64],
    class_names: Sequence[str],
    max_dets: tuple[int, int, int],
) -> CocoMetrics:
    """Metrics from the accumulated arrays; pycocotools' own ``summarize`` knows no maxDets but 100.

    Shapes: ``precision`` (10 IoU thresholds, 101 recalls, K classes, 4 areas, 3 maxDets), ``recall`` without
    the recalls; -1 marks what has no ground truth.
    """
    first, second, last = max_dets
    summary = {
        "AP": _mean(precision[:, :, :, _ALL, -1]),
        "AP50": _mean(precision[_IOU_50, :, :, _ALL, -1]),
        "AP75": _mean(precision[_IOU_75, :, :, _ALL, -1]),
        "APs": _mean(precision[:, :, :, _SMALL, -1]),
        "APm": _mean(precision[:, :, :, _MEDIUM, -1]),
        "APl": _mean(precision[:, :, :, _LARGE, -1]),
        f"AR{first}": _mean(recall[:, :, _ALL, 0]),
        f"AR{second}": _mean(recall[:, :, _ALL, 1]),
        f"AR{last}": _mean(recall[:, :, _ALL, 2]),
        "ARs": _mean(recall[:, :, _SMALL, -1]),
        "ARm": _mean(recall[:, :, _MEDIUM, -1]),
        "ARl": _mean(recall[:, :, _LARGE, -1]),
    }
    per_class = [_mean(precision[:, :, k, _ALL, -1]) for k in range(len(class_names))]
    per_class_50 = [_mean(precision[_IOU_50, :, k, _ALL, -1]) for k in range(len(class_names))]
    return CocoMetrics(
        summary=summary,
        per_class={n: None if ap < 0 else ap for n, ap in zip(class_names, per_class, strict=True)},
        per_class_50={n: None if ap < 0 else ap for n, ap in zip(class_names, per_class_50, strict=True)},
        max_dets=max_dets,
        precision_recall={
            name: [_mean(precision[chosen, r, :, _ALL, -1]) for r in range(precision.shape[1])]
            for name, chosen in PRECISION_RECALL_IOUS.items()
        },
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the entries that have ground truth, -1 where none has."""
    present = values[values > -1]
    return float(present.mean()) if len(present) else -1.0

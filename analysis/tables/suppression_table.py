"""The table of what non-maximum suppression would change of stored detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.statistics.coco_columns import FoundBoxes, GroundTruth
from analysis.statistics.suppression import own_nms_threshold, suppression_effect
from analysis.tables.formats import DASH, Grid, grid
from sparse_rcnn.rundir.reader import Run


@dataclass(frozen=True)
class NamedDetections:
    """The detections of a run by the name of a stage; those of a detector without stages are one entry."""

    name: str
    run: Run
    detections: Mapping[str, FoundBoxes]


def suppression_grid(truth: GroundTruth, runs: Sequence[NamedDetections], min_score: float, iou: float) -> Grid:
    """AP and duplicates as they are and after an NMS of this analysis, and which detectors have NMS of their own."""
    rows = []
    for item in runs:
        for stage, detections in item.detections.items():
            effect = suppression_effect(truth, detections, min_score, iou)
            before, after = effect.counts, effect.counts_after
            gain = None if effect.ap is None or effect.ap_after is None else effect.ap_after - effect.ap
            numbers = [_number(effect.ap, ".1f"), _number(effect.ap_after, ".1f"), _number(gain, "+.2f")]
            for pair in ("num_duplicates", "num_true"):
                numbers += [str(getattr(before, pair)), str(getattr(after, pair))]
            own = own_nms_threshold(item.run.config)
            rows.append([item.name, stage, "no" if own is None else f"IoU {own:g}", *numbers])
    header = ["run", "of", "own NMS", "AP", "AP after", "change", "duplicates", "duplicates after"]
    header += ["find a box", "find one after"]
    remarks = [
        f"After: greedy NMS within each class at an IoU of {iou:g}, applied by this analysis to the stored detections. "
        f"Duplicates and detections that find a box are those with a score of at least {min_score:g}; AP is of all."
    ]
    with_own = [item.name for item in runs if own_nms_threshold(item.run.config) is not None]
    if with_own:
        remarks.append(
            f"{_listed(with_own)}: the detector ends with NMS of its own, which the stored detections have been "
            "through; 'after' is after a second one."
        )
    return grid("Before and after NMS", header, rows, num_label_columns=3, remarks=tuple(remarks))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: float | None, form: str) -> str:
    return DASH if value is None else f"{value:{form}}"

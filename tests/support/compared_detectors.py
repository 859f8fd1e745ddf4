"""Tiny trainings of the detectors that Sparse R-CNN is compared with."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from tests.support import training
from tests.support.paths import ROOT

CONF = ROOT / "conf"
# One row of each detector and of each of its variants.
DETECTORS = ("retinanet", "faster_rcnn", "cascade_rcnn", "detr", "detr_dc5", "detr_without_position", "deformable_detr")
WITH_STAGES = ("cascade_rcnn", "detr", "detr_dc5", "detr_without_position", "deformable_detr")


def detector_of(row: str) -> str:
    """The detector of a row of ``conf/experiment``."""
    defaults = OmegaConf.load(CONF / "experiment" / f"{row}.yaml").get("defaults", [])
    chosen = [str(entry["override /detector"]) for entry in defaults if "override /detector" in entry]
    return chosen[0] if chosen else "sparse_rcnn"


def all_detectors() -> list[str]:
    return sorted(path.stem for path in (CONF / "detector").glob("*.yaml"))


def rows_of(detector: str) -> list[str]:
    """The rows of ``conf/experiment`` of a detector."""
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if detector_of(path.stem) == detector)


def axes_of(detector: str) -> list[str]:
    return list(OmegaConf.load(CONF / "detector" / f"{detector}.yaml")["detector"]["axes"])


def tiny(row: str) -> list[str]:
    """What makes a row tiny: `training.DETECTOR` without the axes that its detector does not have.

    Nor does it have a score below which it finds nothing: a detector that has seen a few images is sure of none.
    """
    detector = detector_of(row)
    axes, model = axes_of(detector), OmegaConf.load(CONF / "model" / f"{detector}.yaml")
    own = [o for o in training.DETECTOR if (key := o.partition("=")[0]) not in training.AXES or key in axes]
    return [*own, *(["model.score_threshold=0.0"] if "score_threshold" in model else [])]


def overrides(row: str, runs_root: Path, *extra: str) -> list[str]:
    """What makes ``experiments.train`` a tiny training of a row under ``runs_root``."""
    data = [*training.GENERATOR, f"data.root={training.data_root()}"]
    return [*data, *tiny(row), *training.TRAINING, f"experiment={row}", f"runs_root={runs_root}", *extra]

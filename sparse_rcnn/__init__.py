"""Sparse R-CNN (arXiv 2011.12450), and the detectors compared with it, as a library of plain PyTorch modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_rcnn.detector import SparseRCNN as SparseRCNN
    from sparse_rcnn.detector_base import Detector as Detector

__all__ = ["Detector", "SparseRCNN"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line's --help and error paths need no torch.
    if name == "SparseRCNN":
        from sparse_rcnn.detector import SparseRCNN

        return SparseRCNN
    if name == "Detector":
        from sparse_rcnn.detector_base import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

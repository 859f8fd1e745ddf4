"""Sparse R-CNN (arXiv 2011.12450) as a library of plain PyTorch modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_rcnn.detector import SparseRCNN as SparseRCNN

__all__ = ["SparseRCNN"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line's --help and error paths need no torch.
    if name == "SparseRCNN":
        from sparse_rcnn.detector import SparseRCNN

        return SparseRCNN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

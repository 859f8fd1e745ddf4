"""The check of predicted numbers before boxes are made of them."""

from __future__ import annotations

from torch import Tensor

from sparse_rcnn.matcher import NonFiniteError


def check_finite(where: str, **tensors: Tensor) -> None:
    """Refuse predictions that are not finite.

    RoIAlign on a CPU would read anywhere in memory for a box that is NaN, and NMS and score thresholds would drop it
    without a word.

    Raises:
        NonFiniteError: names the place and the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise NonFiniteError(f"{where}: NaN or infinity in {name}")

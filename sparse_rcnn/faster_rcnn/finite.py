"""The check of predicted numbers before boxes are made of them."""

from __future__ import annotations

from torch import Tensor

from sparse_rcnn.errors import UserError
from sparse_rcnn.matcher import NonFiniteError


class NonFinitePredictionError(NonFiniteError, UserError):
    """A detector that is not being trained predicts NaN or infinity: its weights or its input are at fault."""


def check_finite(where: str, training: bool, **tensors: Tensor) -> None:
    """Refuse predictions that are not finite.

    RoIAlign on a CPU would read anywhere in memory for a box that is NaN, and NMS and score thresholds would drop it
    without a word.

    Raises:
        NonFiniteError: names the place and the tensor; in training the loop adds its advice.
        NonFinitePredictionError: the same outside of training, with what to do.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            message = f"{where}: NaN or infinity in {name}"
            if training:
                raise NonFiniteError(message)
            raise NonFinitePredictionError(
                f"{message}: take weights of a training that did not diverge, and finite images"
            )

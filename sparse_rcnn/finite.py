"""The check of predicted numbers before boxes are made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.errors import UserError
from sparse_rcnn.matcher import NonFiniteError

_ADVICE = ": take weights of a training that did not diverge, and finite images"


class NonFinitePredictionError(NonFiniteError, UserError):
    """A detector that is not being trained predicts NaN or infinity: its weights or its input are at fault."""

    @property
    def fault(self) -> str:
        """The message without its advice, for a training, which has a better one."""
        return str(self).removesuffix(_ADVICE)


def check_finite(where: str, training: bool, **tensors: Tensor) -> None:
    """Refuse predictions that are not finite.

    RoIAlign on a CPU would read anywhere in memory for a box that is NaN, and NMS and score thresholds would drop it
    without a word.

    Raises:
        NonFiniteError: names the place and the tensor; in training the loop adds its advice.
        NonFinitePredictionError: the same outside of training, with what to do.
    """
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            message = f"{where}: NaN or infinity in {name}"
            raise NonFiniteError(message) if training else NonFinitePredictionError(message + _ADVICE)


def finite_on_host(where: str, values: Tensor, **tensors: Tensor) -> Tensor:
    """``values``, which are made of predictions, on the CPU, the predictions being checked in the same copy.

    A check of its own would make the host wait for the device once more.

    Raises:
        NonFinitePredictionError: names the place and the first of the tensors that is not finite.
    """
    flags = torch.stack([_is_finite(tensor) for tensor in tensors.values()])
    copied = torch.cat((values.flatten(), flags.to(values.dtype))).cpu()
    for name, is_finite in zip(tensors, copied[values.numel() :].tolist(), strict=True):
        if not is_finite:
            raise NonFinitePredictionError(f"{where}: NaN or infinity in {name}{_ADVICE}")
    return copied[: values.numel()].view(values.shape)


def _is_finite(tensor: Tensor) -> Tensor:
    """Whether all numbers are finite, as a tensor; isfinite() of them all would make copies as large as the logits."""
    tensor = tensor.detach()
    return torch.stack(tensor.aminmax() if tensor.numel() else (tensor.sum(),)).isfinite().all()

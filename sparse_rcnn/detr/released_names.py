"""Parameters of DETR by their names in the authors' release, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

RELEASED_BACKBONE = "backbone.0.body."
OUR_BACKBONE = "backbone.bottom_up."


def released_name(name: str) -> str:
    """The released name of a parameter or buffer of ``DETR``; only those of the backbone differ."""
    return _moved(name, OUR_BACKBONE, RELEASED_BACKBONE)


def our_name(name: str) -> str:
    """The name in ``DETR`` of a tensor of a released model."""
    return _moved(name, RELEASED_BACKBONE, OUR_BACKBONE)


def released_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict (the entry ``model`` of the files) by our names; the tensors are the same."""
    return {our_name(name): tensor for name, tensor in state.items()}


def ours_to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ``DETR`` by the released names; the tensors are the same."""
    return {released_name(name): tensor for name, tensor in state.items()}


def _moved(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name

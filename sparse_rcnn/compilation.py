"""torch.compile for the parts of a detector that training spends its time in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import UserError

PARTS = ("none", "head", "model")

Backend = str | Callable[..., Any]


def compile_detector(detector: DetectorModule, part: str, device: torch.device, backend: Backend = "inductor") -> None:
    """Compile the head of a detector, or its backbone and head, in place; the names of its tensors stay.

    All stages or layers of one class share one compiled graph, and sizes that change between batches become dynamic
    with the second size, so neither images of all sizes nor many stages compile again and again.

    Args:
        detector: on ``device``.
        part: ``none``, ``head`` (the detector's ``head_modules``) or ``model`` (these and the backbone).
        device: where it trains; a compiler for it has to work.
        backend: of torch.compile.

    Raises:
        ValueError: another part.
        UserError: the detector has no such part, or nothing can be compiled on this machine; says why.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    if part == "none":
        return
    head = detector.head_modules()
    if part == "head" and not head:
        name = type(detector).__name__
        raise UserError(f"a {name} has no stages or layers to compile: choose model (its backbone) or none")
    _try_compiler(device, backend)
    modules: list[nn.Module] = [*head, detector.backbone] if part == "model" else head
    for module in modules:
        module.compile(backend=backend)


def uncompiled() -> AbstractContextManager[Any]:
    """The context of forward passes that run uncompiled, as those of evaluation: once per size, they would not pay."""
    return torch.compiler.set_stance("force_eager")


def _try_compiler(device: torch.device, backend: Backend) -> None:
    """Compile one addition: a missing compiler is an error before the training, not in its first step.

    Raises:
        UserError: it fails.
    """
    try:
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # torch and the compilers below it raise what they like
        cause = getattr(error, "inner_exception", error)
        reasons = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = reasons[0] if reasons else type(cause).__name__
        raise UserError(f"torch.compile does not work on this machine ({reason}): choose none") from error

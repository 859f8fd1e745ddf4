"""The library's errors name arguments; a command adds the key or option that the user knows the value by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_rcnn.errors import UserError

if TYPE_CHECKING:
    from sparse_rcnn.distributed import World


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put ``key``, a configuration key or an option, before the message of a ``UserError`` of the block."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{key}: {error}") from error


@contextmanager
def naming_rates() -> Iterator[None]:
    """Add the keys that the library's advice on numbers that are not finite is about."""
    from sparse_rcnn.matcher import NonFiniteError

    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; the keys are optim.lr and schedule.num_warmup_steps") from error


@contextmanager
def naming_weights(path: Path) -> Iterator[None]:
    """Put the weights file or run directory before the error of a detector that predicts NaN or infinity."""
    from sparse_rcnn.finite import NonFinitePredictionError

    try:
        yield
    except NonFinitePredictionError as error:
        raise NonFinitePredictionError(f"{path}: {error}") from error


@contextmanager
def naming_workers(key: str, memory_advice: str = "") -> Iterator[None]:
    """Put the key or option that states how many loader processes there are before the errors about these.

    Args:
        key: of the number.
        memory_advice: ends the message where memory ran out.
    """
    from sparse_rcnn.data.loader_processes import LoaderError, LoaderMemoryError

    try:
        yield
    except LoaderError as error:
        advice = f"; {memory_advice}" if memory_advice and isinstance(error, LoaderMemoryError) else ""
        raise type(error)(f"{key}: {error}{advice}") from error


def init_world_on(device: str, key: str) -> World:
    """``init_world`` on the device that ``key`` states; its other errors have nothing to do with the key."""
    from sparse_rcnn.distributed import choose_device, init_world, rank_from_environment

    with naming(key):
        chosen = choose_device(device, rank_from_environment(dict(os.environ))[2])
    return init_world(str(chosen))

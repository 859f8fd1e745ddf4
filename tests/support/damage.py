"""Files with one bit flipped, and checkpoints as they were before there were digests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file


@contextmanager
def flip(path: Path, bit: int) -> Iterator[None]:
    """Within, one bit of a file is the other one; size and times are as they were."""
    flip_for_good(path, bit)
    try:
        yield
    finally:
        flip_for_good(path, bit)


def flip_for_good(path: Path, bit: int) -> None:
    """Flip one bit of a file in its place."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        (value,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([value ^ 1 << bit % 8]))


def some_bits(path: Path, number: int, seed: int = 0) -> list[int]:
    """Bits of a file, the same for the same size and seed: the first and last, and others drawn over the whole file."""
    num_bits = 8 * path.stat().st_size
    return [0, num_bits - 1, *random.Random(seed).sample(range(num_bits), min(number - 2, num_bits))]


def without_digests(checkpoint: Path) -> None:
    """Make a checkpoint of today one of an older program, with the same content."""
    (checkpoint / "digests.json").unlink()
    without_own_digest(checkpoint / "model.safetensors")


def without_own_digest(weights: Path) -> None:
    """Make a weights file of today one of an older program."""
    with safe_open(str(weights), framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    save_file(tensors, weights, metadata)

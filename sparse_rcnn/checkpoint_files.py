"""Checkpoints as people have them, read without running anything that they hold."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparse_rcnn.array_pickle import numpy_globals, read_array_pickle
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.foreign_files import MMDETECTION, describe_foreign_class, describe_foreign_file, is_mmdetection

_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the first number of what torch.save wrote before 1.6


def load_checkpoint(path: Path) -> Any:
    """The content of a file of ``torch.save``, of a safetensors file, or of a pickle of numpy arrays.

    Tensors come on the CPU. Beside them and numpy's arrays only plain Python values are loaded.

    Raises:
        CheckpointError: absent, damaged, of another program (which is named), or with objects of any other class.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the file in it")
    try:
        foreign = describe_foreign_file(path)
        with open(path, "rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if foreign is not None:
        raise CheckpointError(f"{path} is {foreign}")
    if is_safetensors(start):
        content: Any = _load_safetensors(path)
    elif (
        start[:2] != b"PK"
        and _LEGACY_TORCH not in start
        and (start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"))
    ):
        content = read_array_pickle(path)
    else:
        content = _load_torch(path)
    if is_mmdetection(content):
        raise CheckpointError(f"{path} is {MMDETECTION}")
    return content


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins like this is a safetensors file: after the length of the header comes its JSON."""
    return start[8:9] == b"{"


def tensors_of(entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Those entries that are tensors or numpy arrays of numbers, as tensors."""
    found = {}
    for name, value in entries.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))  # a copy, which may be written to
        if isinstance(value, Tensor):
            found[str(name)] = value
    return found


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt or not a safetensors file ({_first_line(error)})") from error


def _load_torch(path: Path) -> Any:
    try:
        # A namespace holds the options of whoever trained: a plain container.
        with torch.serialization.safe_globals([*numpy_globals(), argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are not a pickle, the unpickler fails in every way there is
        unsafe = re.search(r"GLOBAL `?([\w.]+)", str(error))
        if unsafe and (foreign := describe_foreign_class(unsafe[1])) is not None:
            raise CheckpointError(f"{path} is {foreign} (it holds {unsafe[1]})") from error
        if unsafe:
            raise CheckpointError(
                f"{path} holds {unsafe[1]}, which could run any code: only tensors and arrays are loaded; where it "
                "was written, save the model's state dict alone"
            ) from error
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]

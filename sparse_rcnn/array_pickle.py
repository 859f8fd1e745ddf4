"""Pickles of numpy arrays, as Detectron's model zoos hold, by an unpickler that refuses all else."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.foreign_files import describe_foreign_class


def numpy_globals() -> list[tuple[Any, str]]:
    """What a pickled array or number of numpy names, and all the names it has: since numpy 2 and before."""
    array = np.zeros(1)
    found: list[tuple[Any, str]] = [(np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype")]
    for core in ("numpy.core", "numpy._core"):
        found += [
            (array.__reduce__()[0], f"{core}.multiarray._reconstruct"),
            (np.float64(0).__reduce__()[0], f"{core}.multiarray.scalar"),
            (array.__reduce_ex__(5)[0], f"{core}.numeric._frombuffer"),
        ]
    return found


def read_array_pickle(path: Path) -> Any:
    """The content of a pickle whose values are numpy arrays, numbers, texts and containers of these.

    Pickles of Python 2 are read too. No class and no function but numpy's own for arrays is ever called.

    Raises:
        CheckpointError: damaged, or it names anything else; says what.
    """
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except _ForbiddenGlobalError as error:
        if (foreign := describe_foreign_class(str(error))) is not None:
            raise CheckpointError(f"{path} is {foreign} (it holds {error})") from error
        raise CheckpointError(
            f"{path} holds {error}, which could run any code: of a pickle only numpy arrays are loaded; save "
            "tensors by torch.save"
        ) from error
    except Exception as error:  # on damaged bytes the unpickler fails in every way there is
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint or a pickle ({first})") from error


class _ForbiddenGlobalError(pickle.UnpicklingError):
    pass


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[str, Any] = {
    **{name: value for value, name in numpy_globals()},
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _ALLOWED:
            raise _ForbiddenGlobalError(full_name)
        return _ALLOWED[full_name]

"""Pickles of numpy arrays, as Detectron's model zoos hold, by an unpickler that refuses all else."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.foreign_files import describe_foreign_class


class _Dtype:
    """The type of an array's values, by its code.

    numpy's own takes whatever state a pickle gives it, and so would read bytes of the file as addresses of objects.
    """

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([?O]|[biufcSUO][0-9]+)", code):
            raise pickle.UnpicklingError(f"arrays of {code!r:.40} are not loaded")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array that takes its type from `_Dtype` alone."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        super().__setstate__((1, shape, _numpy_dtype(dtype), is_fortran, _as_bytes(data)))


def _reconstruct(*_: Any) -> _Array:
    return _Array((0,), np.int8)


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(_as_bytes(data), _numpy_dtype(dtype))[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.frombuffer(data, _numpy_dtype(dtype))
    if order == "K" and axis_order is not None:
        return array.reshape(shape).transpose(axis_order)
    return array.reshape(shape, order=order)


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a type")
    return dtype.numpy


def _as_bytes(data: Any) -> Any:
    return data.encode("latin1") if isinstance(data, str) else data  # a string of Python 2


def numpy_globals() -> list[tuple[Any, str]]:
    """Stand-ins for what a pickled array or number of numpy names, and all the names it has: since numpy 2 and before.

    They load numbers, texts and lists of objects, and no other state.
    """
    found: list[tuple[Any, str]] = [(_Array, "numpy.ndarray"), (_Dtype, "numpy.dtype")]
    for core in ("numpy.core", "numpy._core"):
        found += [
            (_reconstruct, f"{core}.multiarray._reconstruct"),
            (_scalar, f"{core}.multiarray.scalar"),
            (_frombuffer, f"{core}.numeric._frombuffer"),
        ]
    return found


def read_array_pickle(path: Path) -> Any:
    """The content of a pickle whose values are numpy arrays, numbers, texts and containers of these.

    Pickles of Python 2 are read too. No class and no function of the file's choice is ever called, nor numpy's own,
    whose types could be given a state that makes addresses of bytes.

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

"""Pickles of arrays: of every protocol, of Python 2, and what is refused before it can run."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_rcnn.array_pickle import read_array_pickle
from sparse_rcnn.checkpoint_files import load_checkpoint
from sparse_rcnn.errors import CheckpointError

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "transposed": np.arange(12, dtype=np.float16).reshape(3, 4).T,
    "big-endian": np.arange(3, dtype=">f4"),
    "number": np.float64(1.5),
    "no dimension": np.array(7, dtype=np.int64),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"model": OrderedDict(ARRAYS), "__author__": "x", "matching_heuristics": True, "other": [None, (1, 2.5)]}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol))
    loaded = read_array_pickle(tmp_path / "R-50.pkl")
    assert loaded.keys() == content.keys()
    assert loaded["other"] == [None, (1, 2.5)]
    for name, array in ARRAYS.items():
        assert np.array_equal(loaded["model"][name], array), name


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_numpy_before_and_since_2(tmp_path: Path, core: str) -> None:
    data = pickle.dumps({"w": ARRAYS["w"]}, protocol=0)
    for written in (b"numpy.core", b"numpy._core"):
        data = data.replace(written, b"CORE")
    (tmp_path / "w.pkl").write_bytes(data.replace(b"CORE", core.encode()))
    assert np.array_equal(read_array_pickle(tmp_path / "w.pkl")["w"], ARRAYS["w"])


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Its strings are bytes, those of arrays too, here spelled by hand."""
    raw = np.array([1.0, -2.5], dtype="<f4").tobytes()
    data = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    pickletools.dis(data, out=open(os.devnull, "w"))  # noqa: SIM115 (well-formed, or it raises)
    (tmp_path / "R-50.pkl").write_bytes(data)
    assert read_array_pickle(tmp_path / "R-50.pkl")["conv1_w"].tolist() == [1.0, -2.5]


class Calls:
    """What its pickle calls, and the state that the result is given."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_but_numpy_is_called(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "R-50.pkl"
    harmful = {
        "mkdir": Calls(os.mkdir, str(marker)),
        "builtins.eval": Calls(eval, f"__import__('os').mkdir({str(marker)!r})"),
        "builtins.getattr": Calls(getattr, "a", "upper"),
        "torch": Calls(torch.load, str(path)),
        "pathlib": Path("x"),
    }
    for name, value in harmful.items():
        for content in (value, {"conv1_w": ARRAYS["w"], "x": [value]}, np.array([value], dtype=object)):
            path.write_bytes(pickle.dumps(content))
            with pytest.raises(CheckpointError, match=rf"R-50\.pkl holds \S*{name}\S*, which could run any code: of"):
                read_array_pickle(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zlbtR.")
    with pytest.raises(CheckpointError, match="encoding 'zlb'"):
        read_array_pickle(path)
    assert not marker.exists()


FIELD = {"a": (np.dtype("O"), 0)}
STATES = {
    "fields of objects": ("V8", (3, "|", None, ("a",), FIELD, 8, 8, 0)),
    "fields of objects in a number": ("f8", (3, "<", None, ("a",), FIELD, 8, 8, 0)),
    "a number of objects": ("f8", (3, "<", (np.dtype("O"), (1,)), None, None, 8, 8, 0)),
    "objects": ("O8", (3, "|", None, None, None, -1, -1, 0)),
}


@pytest.mark.parametrize("is_torch", [False, True])
@pytest.mark.parametrize(("code", "state"), STATES.values(), ids=STATES)
def test_bytes_never_become_addresses_of_objects(
    tmp_path: Path, code: str, state: tuple[Any, ...], is_torch: bool
) -> None:
    """numpy's own types take such a state, and would follow the address 0x4141414141414141."""
    dtype = Calls(np.dtype, code, False, True, state=state)
    function, arguments = np.zeros(1).__reduce__()[:2]
    array = Calls(function, *arguments, state=(1, (1,), dtype, False, b"A" * 8))
    path = tmp_path / "R-50.pkl"
    if is_torch:
        torch.save({"meta": {"config": array}}, path)
    else:
        path.write_bytes(pickle.dumps({"meta": {"config": array}}))
    if code == "f8":  # the type is that of its code, whatever the state says
        loaded = load_checkpoint(path)["meta"]["config"]
        assert loaded.dtype == np.float64
        assert loaded.tobytes() == b"A" * 8
    else:
        with pytest.raises(CheckpointError, match=r"R-50\.pkl cannot be read as"):
            load_checkpoint(path)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x02h\x05.", b"\x80\x02" + bytes(range(200)), b"\x80\x04\x95"])
def test_damaged_pickles(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pkl").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"w\.pkl cannot be read as a PyTorch checkpoint or a pickle \("
    ) as caught:
        read_array_pickle(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)

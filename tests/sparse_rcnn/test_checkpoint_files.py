"""Files that people give as weights: those that are read, those of other programs, those that are damaged."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparse_rcnn.checkpoint_files import load_checkpoint, tensors_of
from sparse_rcnn.errors import CheckpointError
from tests.support.pickled_classes import pickled_as

STATE = {"layer1.0.conv1.weight": torch.arange(6.0).reshape(2, 3)}


def equal(content: Any) -> bool:
    return content.keys() == STATE.keys() and all(torch.equal(content[n], t) for n, t in STATE.items())


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.pth.tar", "w.ckpt", "pytorch_model.bin", "no suffix"])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_files_of_torch(tmp_path: Path, name: str, is_zip: bool) -> None:
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    assert equal(load_checkpoint(tmp_path / name))


def test_safetensors_and_pickles_under_any_name(tmp_path: Path) -> None:
    for name in ("model.safetensors", "w.pth"):
        save_file(STATE, tmp_path / name)
        assert equal(load_checkpoint(tmp_path / name))
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    for name in ("R-50.pkl", "R-50.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(arrays))
        assert equal(tensors_of(load_checkpoint(tmp_path / name)))
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(arrays, protocol=0))
    assert equal(tensors_of(load_checkpoint(tmp_path / "old.pkl")))


def test_numbers_of_any_kind_become_tensors_that_can_be_written_to() -> None:
    entries = {
        "big": np.arange(3, dtype=">f4"),
        "f": np.float32(2),
        "t": torch.ones(1),
        "s": "x",
        "o": np.array([None]),
    }
    read_only = np.ones(2)
    read_only.flags.writeable = False
    found = tensors_of(entries | {"r": read_only})
    assert set(found) == {"big", "t", "r"}
    assert found["big"].tolist() == [0, 1, 2]
    found["r"][0] = 5
    assert read_only[0] == 1


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


MM = "is a checkpoint of MMDetection, whose layout is not read: take the ImageNet weights of its backbone"
BACKBONE = {"backbone.layer1.0.conv1.weight": torch.ones(1)}
FOREIGN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "MMDetection 2": ("w.pth", lambda: saved({"meta": {"mmdet_version": "2.3"}, "state_dict": BACKBONE}), MM),
    "MMDetection 3": ("w.pth", lambda: saved({"meta": {"cfg": "_scope_ = 'mmdet'"}, "state_dict": BACKBONE}), MM),
    "its heads": ("w.pth", lambda: saved(BACKBONE | {"roi_head.bbox_head.0.fc_cls.weight": torch.ones(1)}), MM),
    "its log": ("w.pth", lambda: pickled_as("mmengine.logging.history_buffer", "HistoryBuffer", saved), MM),
    "Ultralytics": (
        "yolo.pt", lambda: pickled_as("ultralytics.nn.tasks", "DetectionModel", saved),
        r"is a YOLO model of Ultralytics, .* \(it holds ultralytics\.nn\.tasks\.DetectionModel\)",
    ),
    "YOLOv5": ("w.pt", lambda: pickled_as("models.yolo", "Model", saved), "is a YOLO model of Ultralytics"),
    "any other object": (
        "w.pt", lambda: pickled_as("my.package", "Net", saved),
        r"holds my\.package\.Net, which could run any code: only tensors .* save the model's state dict alone",
    ),
    "TorchScript": ("w.pt", script, "is a TorchScript archive; save the state dict of its model"),
    "ONNX": ("w.onnx", lambda: b"\x08\x07\x12\x07pytorch", "is an ONNX model"),
    "Keras": ("w.keras", lambda: zipped("config.json", "model.weights.h5"), "is a Keras model"),
    "HDF5": ("w.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file, as Keras writes"),
    "TensorFlow": ("m.ckpt.data-00000-of-00001", lambda: bytes(64), "is part of a TensorFlow checkpoint"),
    "its index": ("m.ckpt.index", lambda: bytes(64), "is part of a TensorFlow checkpoint"),
    "numpy": ("w.npz", lambda: zipped("a.npy"), "is an archive of numpy arrays"),
    "zip": ("w.zip", lambda: zipped("w.pth"), "is an archive; unpack it first"),
    "gzip": ("w.pth.gz", lambda: gzip.compress(b"x"), "is a compressed archive; unpack it first"),
    "tar": ("w.tar", tarred, "is a tar archive; unpack it first"),
    "Git LFS": ("w.pth", lambda: b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    "a web page": ("w.pth", lambda: b"<!DOCTYPE html><html>", "is a web page, not the file that was to be downloaded"),
    "a configuration": ("w.yaml", lambda: b"MODEL: x", "is a configuration, not the weights"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_files_of_other_programs_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, data, message = FOREIGN[kind]
    (tmp_path / name).write_bytes(data())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_detectors_that_only_resemble_mmdetections_are_read(tmp_path: Path) -> None:
    torch.save({"meta": {"mmcls_version": "0.2"}, "state_dict": BACKBONE}, tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth")["state_dict"].keys() == BACKBONE.keys()


def test_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder: give the file in it"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        load_checkpoint(tmp_path / "nowhere.pth")


def corrupt(state: dict[str, Tensor], kind: str) -> bytes:
    data = saved(state)
    return {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "truncated at once": data[:10],
        "zeros": bytes(5000),
        "random": bytes((i * i * 31 + i * 7) % 251 for i in range(4000)),
        "flipped": data[:-400] + bytes(b ^ 255 for b in data[-400:]),
        "binary pickle start": b"\x80\x02" + bytes(range(200)),
        "one letter": b"\x80",
        "memo": b"\x80\x02h\x05.",
        "safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{}",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "truncated", "truncated at once", "zeros", "random", "flipped", "binary pickle start", "one letter",
        "memo", "safetensors",
    ],
)  # fmt: skip
def test_damaged_files_are_refused_naming_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(corrupt(STATE | {"b": torch.zeros(4000)}, kind))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)

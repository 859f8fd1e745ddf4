"""Files that people have in place of a checkpoint, recognised so that they are refused by name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_STARTS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes",
    b"version https://git-lfs": "a Git LFS pointer and not the file that it stands for; fetch it with git lfs pull",
    b"<!doctype html": "a web page, not the file that was to be downloaded",
    b"<html": "a web page, not the file that was to be downloaded",
    b"\x1f\x8b": "a compressed archive; unpack it first",
    b"BZh": "a compressed archive; unpack it first",
    b"\xfd7zXZ": "a compressed archive; unpack it first",
    b"7z\xbc\xaf": "a compressed archive; unpack it first",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a single numpy array",
}
_SUFFIXES = {
    ".onnx": "an ONNX model",
    ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow graph",
    ".meta": "part of a TensorFlow checkpoint",
    ".index": "part of a TensorFlow checkpoint",
    ".msgpack": "a checkpoint of Flax",
    ".engine": "a TensorRT engine",
    ".caffemodel": "a Caffe model",
    ".pdparams": "a checkpoint of PaddlePaddle",
    ".yaml": "a configuration, not the weights",
    ".yml": "a configuration, not the weights",
    ".json": "a JSON file, not the weights",
}
_MMDETECTION_HEADS = ("bbox_head.", "rpn_head.", "roi_head.", "mask_head.")
MMDETECTION = (
    "a checkpoint of MMDetection, whose layout is not read: take the ImageNet weights of its backbone, or a checkpoint "
    "of the Sparse R-CNN authors' release"
)


def describe_foreign_file(path: Path) -> str | None:
    """The kind of a file that is certainly not one of PyTorch, safetensors or pickle; None where it may be one.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    for magic, kind in _STARTS.items():
        if start[: len(magic)].lower() == magic.lower():
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if ".data-0" in path.name:
        return "part of a TensorFlow checkpoint"
    if start[:4] == b"PK\x03\x04":
        return _describe_zip(path)
    return _SUFFIXES.get(path.suffix.lower())


def describe_foreign_class(name: str) -> str | None:
    """The program whose checkpoints hold pickled objects of a class, by its full name."""
    package = name.split(".")[0]
    if package in ("mmdet", "mmengine", "mmcv"):
        return MMDETECTION
    if package == "ultralytics" or name.startswith("models.yolo"):
        return "a YOLO model of Ultralytics, which is another detector"
    return None


def is_mmdetection(content: Any) -> bool:
    """Whether a loaded checkpoint was written by MMDetection, by what it says of itself or by its heads' names."""
    if not isinstance(content, Mapping):
        return False
    meta = content.get("meta")
    if isinstance(meta, Mapping) and (
        "mmdet_version" in meta or any("mmdet" in str(meta.get(key, "")) for key in ("config", "cfg"))
    ):
        return True
    state = content.get("state_dict", content)
    names = [name for name in state if isinstance(name, str)] if isinstance(state, Mapping) else []
    return any(n.startswith(_MMDETECTION_HEADS) for n in names) and any(n.startswith("backbone.") for n in names)


def _describe_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None
    parts = {name.partition("/")[2] for name in names}
    if "version" in parts:  # of torch's format
        is_script = "constants.pkl" in parts or any(part.startswith("code/") for part in parts)
        return "a TorchScript archive; save the state dict of its model" if is_script else None
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras model"
    if any(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays"
    return "an archive; unpack it first"

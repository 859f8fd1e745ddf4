"""The keys of `weights`: refused files, fine-tuning, and the identities of runs that start from weights."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.config.build import dry_build
from experiments.config.validation import validate
from experiments.run.fingerprints import content_keys, run_identity_of
from sparse_rcnn.backbone import ResNet
from sparse_rcnn.backbone_layouts import detectron2_name
from sparse_rcnn.convert import ours_to_released
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.identity import file_fingerprint, run_identity
from sparse_rcnn.weights import read_weights
from tests.support import caffe2_resnets, training
from tests.support.configs import checked
from tests.support.detectors import resnet, small_card, small_detector

NAMES = ("disc", "square", "triangle")  # of the tiny data set


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the tiny data set."""
    return training.train(training.overrides(tmp_path_factory.mktemp("first")))


def config(*overrides: str) -> dict[str, Any]:
    return validate(training.composed(training.overrides(Path("/nowhere/runs"), *overrides)))


def renamed(folder: Path, *names: str) -> Path:
    """The tiny data set with other names, or with fewer classes: the annotations of the others go."""
    data = training.copy_data(folder)

    def edit(content: dict[str, Any]) -> None:
        content["categories"] = [
            category | {"name": name} for category, name in zip(content["categories"], names, strict=False)
        ]
        ids = {category["id"] for category in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in ids]

    for split in ("train", "val"):
        training.edit_json(data / f"instances_{split}.json", edit)
    return data


def untrained(data: Path, runs_root: Path, *overrides: str) -> list[str]:
    return training.coco_overrides(data, runs_root, "optim.lr=0", "optim.weight_decay=0", *overrides)


def test_fine_tuning_on_another_number_of_classes(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = renamed(tmp_path / "data", "disc", "cell")
    run = training.train(untrained(data, tmp_path / "runs", f"weights.detector={first}", "num_proposals=9"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weights.detector")]
    assert len(lines) == 1
    assert lines[0].startswith(f"weights.detector={first}: took ")
    assert "class layers taken by name for 'disc', drawn anew for 'cell'; " in lines[0]
    assert "the first 6 of 9" in lines[0]
    before, after = (training.weights(path / "model.safetensors") for path in (first, run))
    assert torch.equal(before["backbone.bottom_up.stem.0.weight"], after["backbone.bottom_up.stem.0.weight"])
    weight = "stages.1.cls_tower.3.weight"
    assert after[weight].shape[0] == 2
    assert torch.equal(before[weight][NAMES.index("disc")], after[weight][0])
    assert read_weights(run / "model.safetensors")[1].class_names == ["disc", "cell"]
    assert json.loads((run / "config.json").read_text())["weights"]["strict"] is False

    arguments = untrained(data, tmp_path / "strict", f"weights.detector={first}", "weights.strict=true")
    with pytest.raises(UserError, match=r"^weights\.detector=\S+ does not fit the model: stages\.0\.cls_tower"):
        training.train(arguments)
    assert not (tmp_path / "strict").exists()


def test_strict_takes_classes_by_their_order(first: Path, tmp_path: Path) -> None:
    data = renamed(tmp_path / "data", *reversed(NAMES))
    weights = f"weights.detector={first / 'model.safetensors'}"
    by_order = training.train(untrained(data, tmp_path / "order", weights, "weights.strict=true"))
    by_name = training.train(untrained(data, tmp_path / "name", weights))
    before, order, name = (training.weights(run / "model.safetensors") for run in (first, by_order, by_name))
    assert training.equal(order, before)
    layer = "stages.0.cls_tower.3.bias"
    assert torch.equal(name[layer], before[layer].flip(0))
    assert by_order.name != by_name.name, "two results, two identities"


def test_identities_of_runs_that_start_from_weights(first: Path, tmp_path: Path) -> None:
    """Those of before where all fits: neither the new key nor a run directory in a file's place changes them."""
    file = first / "model.safetensors"
    plain = config(f"weights.detector={file}")
    as_before = {"data": content_keys(config())["data"], "weights.detector": file_fingerprint(file)}
    assert content_keys(plain) == as_before
    assert content_keys(plain | {"data": config("data.root=/not/made/yet")["data"]}) == as_before
    same = (f"weights.detector={first}",), (f"weights.detector={file}", "weights.strict=true")
    assert {run_identity_of(config(*overrides)) for overrides in same} == {run_identity(plain, as_before)}
    assert run_identity_of(config("weights.strict=true")) == run_identity_of(config())

    others = validate(training.composed(training.coco_overrides(renamed(tmp_path / "d", "a", "b", "c"), tmp_path)))
    found = []
    for strict in (True, False):
        others["weights"] = {"backbone": None, "detector": str(file), "strict": strict}
        found.append(content_keys(others))
    assert found[1] == {**found[0], "weights.classes": "by name"}


def released(path: Path) -> None:
    card = small_card(bottom_up=resnet(18))
    state = ours_to_released(small_detector(card=card).state_dict(), card.architecture)
    torch.save({"model": state}, path)


def mmdetection(path: Path) -> None:
    torch.save({"meta": {"mmdet_version": "2.11.0"}, "state_dict": {"backbone.conv1.weight": torch.ones(1)}}, path)


DETECTORS = {
    "a release": ("r.pth", released, r"checkpoint of Sparse R-CNN: convert it first, python -m \S+\.convert \S+/r\.pth "
                  r"\S+/r\.safetensors$"),
    "MMDetection": ("m.pth", mmdetection, r"m\.pth is a checkpoint of MMDetection, whose layout is not read: take "),
    "a classifier": (
        "c.pth", lambda path: torch.save({"fc.weight": torch.ones(1)}, path),
        r"c\.pth is neither a weights file .* an ImageNet network goes into weights\.backbone$",
    ),
    "ONNX": ("o.onnx", lambda path: path.write_bytes(b"\x08\x07"), r"o\.onnx is an ONNX model; give a weights file"),
    "text": ("t.safetensors", lambda path: path.write_text("hello"), r"t\.safetensors is corrupt or not a safetensors"),
    "a folder": ("folder", os.mkdir, r"folder is neither a run directory nor a weights file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DETECTORS)
def test_wrong_files_for_a_detector_fail_before_data_is_loaded(kind: str, tmp_path: Path) -> None:
    name, make, message = DETECTORS[kind]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        dry_build(checked(f"weights.detector={tmp_path / name}"))
    assert str(caught.value).startswith(f"weights.detector: {tmp_path / name} ")


def test_a_model_that_nothing_fits_fails_before_data_is_loaded(first: Path) -> None:
    with pytest.raises(UserError, match=r"^weights\.detector=\S+ has next to nothing for this model \(0\.0% of its nu"):
        dry_build(checked("recipe=paper", "weights.backbone=null", f"weights.detector={first}"))
    dry_build(checked("recipe=paper", "weights.backbone=null", f"weights.detector={first}", "weights.strict=true"))


def test_weights_under_any_name(first: Path, tmp_path: Path) -> None:
    for name in ("renamed.ckpt", "no suffix"):
        (tmp_path / name).write_bytes((first / "model.safetensors").read_bytes())
        dry_build(config(f"weights.detector='{tmp_path / name}'"))


def test_an_unfinished_run_names_its_last_checkpoint(first: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "step_000002").mkdir(parents=True)
    (run / "checkpoints" / "step_000002" / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    (run / "meta.json").write_text("{}")
    with pytest.raises(UserError, match=r"^weights\.detector: run \S+ has no model\.safetensors: .*/step_000002/"):
        dry_build(checked(f"weights.detector={run}"))


def test_backbones_are_checked_before_data_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(caffe2_resnets.blobs()))
    arguments = ("recipe=paper", f"weights.backbone={path}")
    message = rf"^weights\.backbone: {path} holds MSRA's .* set model\.backbone\.bottom_up\.stride_in_1x1=true$"
    with pytest.raises(UserError, match=message):
        dry_build(checked(*arguments))
    dry_build(checked(*arguments, "model.backbone.bottom_up.stride_in_1x1=true"))
    with pytest.raises(UserError, match=r"^weights\.backbone: \S+ holds a ResNet-50, the model is resnet101$"):
        dry_build(checked(*arguments, "backbone=resnet101", f"weights.backbone={path}"))
    mmdetection(tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"^weights\.backbone: \S+m\.pth is a checkpoint of MMDetection, whose layout"):
        dry_build(checked("recipe=paper", f"weights.backbone={tmp_path / 'm.pth'}"))
    assert capsys.readouterr().err == ""


def test_a_backbone_of_detectron2_in_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = ResNet(depth=18, stride_in_1x1=False, num_frozen_stages=0)
    arrays = {detectron2_name(name): tensor.numpy() for name, tensor in net.state_dict().items()}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    overrides = [o for o in training.overrides(tmp_path / "runs") if "bottom_up" not in o]
    run = training.train(
        [*overrides, "backbone=resnet18", f"weights.backbone={path}", "optim.lr=0", "schedule.length=1"]
    )
    assert capsys.readouterr().err.splitlines()[0] == (
        f"weights.backbone={path}: a ResNet-18 in the layout of Detectron2"
    )
    saved = training.weights(run / "model.safetensors")
    name = "layer4.1.conv2.weight"
    assert torch.equal(saved[f"backbone.bottom_up.{name}"], net.state_dict()[name])

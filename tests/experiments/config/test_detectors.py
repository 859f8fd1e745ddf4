"""Every compared detector as a configuration: it composes under each recipe, trains, and lacks axes in one line."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from experiments.config.axes import NODES
from experiments.config.build import build, build_criterion, build_optimizer, dry_build, with_num_classes
from experiments.config.rows import experiments_of
from experiments.config.targets import ConfigError
from sparse_rcnn.criterion import Losses
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.rundir.identity import is_excluded
from sparse_rcnn.weights import ModelCard, load_detector, save_detector
from tests.support import training
from tests.support.compared_detectors import DETECTORS, all_detectors, axes_of, detector_of, rows_of, tiny
from tests.support.configs import CONF, checked
from tests.support.detectors import images_of, random_targets

ROWS = [row for detector in all_detectors() if detector != "sparse_rcnn" for row in rows_of(detector)]
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
NUM_CLASSES = 3
CATEGORIES = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
SIZES = [(64, 96), (50, 70)]
SAMPLES = ("faster_rcnn", "cascade_rcnn")  # draw boxes to learn from


def test_every_detector_has_its_files() -> None:
    for detector in all_detectors():
        for folder in ("model", "criterion", "input/published", "crop/published"):
            assert (CONF / folder / f"{detector}.yaml").is_file(), (folder, detector)
        assert OmegaConf.load(CONF / "detector" / f"{detector}.yaml")["detector"]["name"] == detector
    for training_file in CONF.glob("training/*/*.yaml"):
        assert training_file.stem in all_detectors()
    assert set(map(detector_of, DETECTORS)) == set(all_detectors()) - {"sparse_rcnn"}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("detector", all_detectors())
def test_a_detector_builds_under_every_recipe(detector: str, recipe: str) -> None:
    dry_build(checked(f"recipe={recipe}", f"detector={detector}", "weights.backbone=null"))


def test_published_trainings() -> None:
    def trained(row: str) -> dict[str, Any]:
        config = checked("recipe=paper", "data.root=/coco", "weights.backbone=null", f"experiment={row}")
        optim, schedule, train = config["optim"], config["schedule"], config["train"]
        crop, num_warmup = config["input"]["train"]["crop"], schedule["num_warmup_steps"]
        return {
            "optimizer": optim["_target_"].rpartition(".")[2],
            "lr": optim["lr"],
            "length": (schedule["length"], schedule["unit"]),
            "drops": [round(schedule["length"] * m) for m in schedule["milestones"]],
            "warmup": (num_warmup, schedule["warmup_factor"]) if num_warmup else None,
            "batch": train["batch_size"],
            "clip": train["clip_norm"],
            "multipliers": {"backbone": train["backbone_lr_multiplier"], **train["lr_multipliers"]},
            "short_sides": config["input"]["train"]["short_sides"][0],
            "crop": None if crop is None else crop["probability"],
            "dropout": config["dropout"],
            "num_proposals": config["num_proposals"],
        }

    detectron2 = {
        "optimizer": "SGD", "lr": 0.02, "length": (270_000, "steps"), "drops": [210_000, 250_000],
        "warmup": (1000, 0.001), "batch": 16, "clip": None, "multipliers": {"backbone": 1.0}, "short_sides": 640,
        "crop": None, "dropout": None, "num_proposals": None,
    }  # fmt: skip
    assert trained("faster_rcnn") == trained("cascade_rcnn") == detectron2
    assert trained("retinanet_backbone_resnet101") == {**detectron2, "lr": 0.01}
    detr = {
        "optimizer": "AdamW", "lr": 1e-4, "length": (500, "epochs"), "drops": [400], "warmup": None, "batch": 64,
        "clip": 0.1, "multipliers": {"backbone": 0.1}, "short_sides": 480, "crop": 0.5, "dropout": 0.1,
        "num_proposals": 100,
    }  # fmt: skip
    assert trained("detr") == trained("detr_dc5") == detr
    assert trained("detr_epochs_300") == {**detr, "length": (300, "epochs"), "drops": [200]}
    assert trained("deformable_detr") == {
        **detr, "lr": 2e-4, "length": (50, "epochs"), "drops": [40], "batch": 32, "num_proposals": 300,
        "multipliers": {"backbone": 0.1, "reference_points": 0.1, "sampling_offsets": 0.1},
    }  # fmt: skip


def test_one_augmentation_for_all_is_two_words() -> None:
    inputs = [
        checked("recipe=paper", "data.root=/coco", f"detector={detector}", "input=paper", "crop=none")["input"]
        for detector in all_detectors()
    ]
    assert all(each == inputs[0] for each in inputs)


def test_a_run_is_named_after_its_detector() -> None:
    names = {detector: checked(f"detector={detector}")["experiment_name"] for detector in all_detectors()}
    assert names == {detector: detector for detector in all_detectors()} | {"sparse_rcnn": "baseline"}
    config = checked("detector=detr")
    assert experiments_of(config) == {"detr": []}
    assert checked("detector=detr", "experiment=num_proposals_500")["experiment_name"] == "num_proposals_500"


@pytest.mark.parametrize("axis", NODES)
@pytest.mark.parametrize("detector", all_detectors())
def test_an_axis_that_a_detector_lacks_is_one_line(detector: str, axis: str) -> None:
    values = {
        "num_stages": "1", "num_proposals": "5", "dropout": "0.1", "head": "attention", "reuse": "concat",
        "init": "grid", "positional_encoding": "sine", "roi_pooler": "roi_align",
    }  # fmt: skip
    overrides = [f"detector={detector}", f"{axis}={values[axis]}"]
    if axis in axes_of(detector):
        checked(*overrides)
        return
    with pytest.raises(ConfigError, match=rf"^{axis}: detector={detector} has no such axis \(.*\); leave {axis} out$"):
        checked(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_stages=null"], r"^num_stages: detector=sparse_rcnn needs a value, got null$"),
        (["criterion=retinanet"], r"^criterion: RetinaNetCriterion does not read the output of SparseRCNN; detector="),
        (["detector=detr", "criterion=sparse_rcnn"], r"^criterion: SetCriterion does not read the output of DETR;"),
        (["detector=detr", "criterion=deformable_detr"], r"^criterion: DeformableDETRCriterion does not read the"),
        (["detector=retinanet", "+train.lr_multipliers.hed=0.1"], r"^train\.lr_multipliers: no .* 'hed' in .*'head'"),
    ],
)
def test_parts_that_do_not_fit_are_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dry_build(checked(*overrides))


@pytest.mark.parametrize("row", ["detr_epochs_300", "detr_without_position", "detr"])
def test_rows_of_a_length_of_their_own_are_short_where_the_recipe_is(row: str) -> None:
    schedule = checked("recipe=overfit", f"experiment={row}")["schedule"]
    assert (schedule["length"], schedule["unit"]) == (300, "steps")


def test_the_axes_of_a_detector_do_not_enter_identities() -> None:
    assert is_excluded("detector.name")
    assert is_excluded("detector.axes[0]")
    assert is_excluded("model.num_classes")


# --- every row, as a tiny detector -------------------------------------------------------------------------


@functools.cache
def row_config(row: str) -> dict[str, Any]:
    return with_num_classes(checked(*tiny(row), *training.TRAINING, f"experiment={row}"), NUM_CLASSES)


def new_detector(config: dict[str, Any]) -> Detector:
    torch.manual_seed(0)
    model: Detector = build(config, "model")
    model.activation_checkpointing = False
    return model


def losses_of(config: dict[str, Any], model: Detector, counts: list[int], num_parts: int = 1) -> list[Losses]:
    """The losses of a batch of images, in so many parts that share one step, which are differentiated."""
    torch.manual_seed(1)
    sizes_hw = SIZES if len(counts) == len(SIZES) else [SIZES[0]] * len(counts)  # parts pad alike
    images, sizes = images_of(sizes_hw)
    targets = random_targets(counts, sizes, NUM_CLASSES)
    criterion = build_criterion(config)
    share = tuple(float(count) for count in criterion.counts(targets))
    found = []
    size = len(counts) // num_parts
    for start in range(0, len(counts), size):
        part = slice(start, start + size)
        own = type(targets)(targets.boxes_xyxy_abs[part], targets.labels[part], targets.num_per_image[part])
        losses = criterion(model.train()(images[part], sizes[part], own), own, sizes[part], share)
        losses.total.backward()
        found.append(losses)
    assert all(tuple(each.parts) == criterion.part_names for each in found)
    return found


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("counts", [[3, 2], [3, 0], [0, 0], [30, 1]], ids=str)
def test_a_row_gives_every_parameter_a_finite_gradient(row: str, counts: list[int]) -> None:
    config = row_config(row)
    model = new_detector(config)
    (losses,) = losses_of(config, model, counts)
    assert math.isfinite(losses.total.item())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    build_optimizer(config, model).step()


@pytest.mark.parametrize("row", [row for row in DETECTORS if detector_of(row) not in SAMPLES])
@pytest.mark.parametrize("num_parts", [2, 4])
def test_micro_batches_make_the_same_step(row: str, num_parts: int) -> None:
    config = row_config(row)
    whole, parted = new_detector(config), new_detector(config)
    counts = [3, 0, 2, 5]
    (losses,) = losses_of(config, whole, counts)
    total = sum(part.total for part in losses_of(config, parted, counts, num_parts))
    torch.testing.assert_close(total, losses.total, rtol=1e-5, atol=1e-5)
    for (name, one), (_, other) in zip(whole.named_parameters(), parted.named_parameters(), strict=True):
        if one.requires_grad:
            # Measured: up to 1.5e-4 of the largest element (Deformable DETR, a processor without AVX-512), one image
            # and four take other kernels. Parts divided by their own counts would be off by a tenth.
            scale = one.grad.abs().max().item()
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=3e-4 * max(scale, 1e-2), msg=name)


@pytest.mark.parametrize("row", DETECTORS)
def test_checkpointing_keeps_less_for_the_backward_pass(row: str) -> None:
    config = row_config(row)

    def kept(checkpointing: bool) -> int:
        model = new_detector(config).train()
        model.activation_checkpointing = checkpointing
        images, sizes = images_of(SIZES)
        num_bytes = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal num_bytes
            num_bytes += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images, sizes, random_targets([3, 2], sizes, NUM_CLASSES))
        return num_bytes

    assert kept(True) < 0.9 * kept(False)


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_the_weights_file_of_a_row_restores_its_detections(row: str, tmp_path: Path) -> None:
    config = row_config(row)
    model = new_detector(config).eval()
    model.card = ModelCard(config["model"], CATEGORIES, short_side=64, max_long_side=96)
    save_detector(model, model.card, tmp_path / "m.safetensors")
    torch.manual_seed(1)
    loaded = load_detector(tmp_path / "m.safetensors")
    assert loaded.card == model.card
    images, sizes = images_of(SIZES)
    for got, wanted in zip(
        loaded.detections(loaded(images, sizes), sizes, sizes), model.detections(model(images, sizes), sizes, sizes),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(got.boxes_xyxy_abs, wanted.boxes_xyxy_abs)
        assert torch.equal(got.scores, wanted.scores)
        assert torch.equal(got.labels, wanted.labels)
        assert len(got) <= model.max_detections
        assert got.scores.tolist() == sorted(got.scores.tolist(), reverse=True)

"""Every option of every configuration group composes, passes the checks and builds; the paper's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.config.build import (
    build,
    build_criterion,
    build_optimizer,
    build_schedule,
    dry_build,
    with_num_classes,
)
from experiments.config.targets import ConfigError
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.identity import run_identity
from tests.support import detectors
from tests.support.configs import CONF, checked, compose_run

CHOSEN_BY_DETECTORS = ("model", "criterion")  # which is where they are tried
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", *CHOSEN_BY_DETECTORS)
)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda v: str(v))
def test_every_option_composes_passes_the_checks_and_builds(group: str, option: str) -> None:
    chosen = compose_run(f"{group}={option}", "weights.backbone=null")
    assert chosen.hydra.runtime.choices[group] == option
    dry_build(checked(f"{group}={option}", "weights.backbone=null"))


def test_the_groups_are_those_that_train_yaml_chooses_from() -> None:
    chosen = compose_run().hydra.runtime.choices
    assert {group for group, _ in OPTIONS} <= {str(group) for group in chosen}


@pytest.mark.parametrize(("folder", "key"), [("experiment", "experiment_name"), ("recipe", "recipe_name")])
def test_names_of_experiments_and_recipes_are_their_files(folder: str, key: str) -> None:
    files = sorted((CONF / folder).glob("*.yaml"))
    assert files
    for file in files:
        assert checked(f"{folder}={file.stem}")[key] == file.stem, file


def test_experiment_files_are_flat_and_short() -> None:
    assert not [p for p in (CONF / "experiment").iterdir() if p.is_dir()], "glob() would launch nothing"
    for file in (CONF / "experiment").glob("*.yaml"):
        text = file.read_text()
        assert text.startswith("# @package _global_\n"), file
        assert len(text.splitlines()) <= 20, file


def paper(*overrides: str) -> dict[str, Any]:
    return checked("recipe=paper", "data.root=/coco", *overrides)


def test_paper_model() -> None:
    model = paper()["model"]
    assert model["num_stages"] == 6
    assert model["pixel_mean"] == [123.675, 116.28, 103.53]
    assert model["pixel_std"] == [58.395, 57.12, 57.375]
    assert model["backbone"] == {
        "_target_": "sparse_rcnn.backbone.FPNBackbone",
        "hidden_dim": 256,
        "bottom_up": detectors.resnet(50),
    }
    assert model["proposals"] == {
        "_target_": "sparse_rcnn.proposals.LearnedProposals",
        "num_proposals": 100,
        "hidden_dim": 256,
        "init": {"_target_": "sparse_rcnn.box_init.ImageInit"},
    }
    assert model["roi_pooler"] == {
        "_target_": "sparse_rcnn.roi_pooler.MultiLevelRoIAlign",
        "output_size": 7,
        "sampling_ratio": 2,
    }
    assert model["stage"] == {
        "_target_": "sparse_rcnn.stage.Stage",
        "hidden_dim": 256,
        "num_cls_layers": 1,
        "num_reg_layers": 3,
        "reused_dim": 256,
        "reuse": {
            "_target_": "sparse_rcnn.reuse.SelfAttention",
            "hidden_dim": 256,
            "num_heads": 8,
            "dropout": 0.0,
        },
        "interaction": {
            "_target_": "sparse_rcnn.interaction.DynamicInteraction",
            "hidden_dim": 256,
            "dim_dynamic": 64,
            "output_size": 7,
            "dropout": 0.0,
        },
        "feed_forward": {
            "_target_": "sparse_rcnn.stage.FeedForward",
            "hidden_dim": 256,
            "dim_feedforward": 2048,
            "dropout": 0.0,
        },
    }
    assert model["positional_encoding"] == {"_target_": "sparse_rcnn.positional_encoding.NoEncoding"}


def test_paper_loss_and_matching() -> None:
    weights = {"focal_alpha": 0.25, "focal_gamma": 2.0}
    assert paper()["criterion"] == {
        "_target_": "sparse_rcnn.losses.SetCriterion",
        "class_weight": 2.0,
        "l1_weight": 5.0,
        "giou_weight": 2.0,
        **weights,
        "matcher": {
            "_target_": "sparse_rcnn.matcher.HungarianMatcher",
            "class_cost": 2.0,
            "l1_cost": 5.0,
            "giou_cost": 2.0,
            **weights,
        },
    }


def test_paper_optimizer_and_schedule() -> None:
    config = paper("weights.backbone=null")
    optim, train = config["optim"], config["train"]
    assert optim["_target_"] == "torch.optim.AdamW"
    assert (optim["lr"], optim["betas"], optim["eps"], optim["weight_decay"]) == (
        2.5e-5,
        [0.9, 0.999],
        1e-8,
        1e-4,
    )
    assert (train["batch_size"], train["reference_batch_size"], train["lr_scaling"]) == (16, 16, "none")
    assert (train["clip_norm"], train["backbone_lr_multiplier"]) == (1.0, 1.0)
    assert (train["ema_decay"], train["precision"], train["num_micro_batches"]) == (None, "fp32", 1)
    schedule = build_schedule(config)
    assert (schedule.length, schedule.unit) == (270_000, "steps")
    assert (schedule.num_warmup_steps, schedule.warmup_factor, schedule.gamma) == (1000, 0.01, 0.1)
    assert [round(m * 270_000) for m in schedule.milestones] == [210_000, 250_000]
    rates = [optim["lr"] * schedule.factor(s, 1) for s in (0, 1, 999, 209_999, 210_000, 249_999, 250_000)]
    assert rates == pytest.approx([2.5e-7, 2.7475e-7, 2.497525e-5, 2.5e-5, 2.5e-6, 2.5e-6, 2.5e-7], rel=1e-12)
    config = with_num_classes(config, 80)
    with torch.device("meta"):
        model = build(config, "model")
    (group,) = build_optimizer(config, model).param_groups
    assert (group["lr"], group["weight_decay"], tuple(group["betas"]), group["eps"]) == (
        2.5e-5,
        1e-4,
        (0.9, 0.999),
        1e-8,
    )
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())
    criterion = build_criterion(config)
    assert (criterion.class_weight, criterion.l1_weight, criterion.giou_weight) == (2, 5, 2)


def test_paper_data() -> None:
    config = paper()
    assert config["weights"]["backbone"] == "IMAGENET1K_V1"
    assert config["data"]["name"] == "coco"
    assert config["data"]["train"]["annotations"] == "/coco/annotations/instances_train2017.json"
    assert config["data"]["val"]["images"] == "/coco/val2017"
    train, evaluation = config["input"]["train"], config["input"]["eval"]
    assert train["short_sides"] == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    assert (train["max_long_side"], train["flip_probability"], train["crop"]) == (1333, 0.5, None)
    assert (evaluation["short_side"], evaluation["max_long_side"]) == (800, 1333)
    crop = paper("crop=random")["input"]["train"]["crop"]
    assert crop == {
        "_target_": "sparse_rcnn.data.transforms.RandomCropRecipe",
        "probability": 0.5,
        "short_sides": [400, 500, 600],
        "min_size": 384,
        "max_size": 600,
    }


def test_the_plain_axes_reach_the_nodes_they_stand_for() -> None:
    config = checked("num_stages=2", "num_proposals=7", "hidden_dim=32", "dropout=0.1", "criterion.l1_weight=4")
    model = config["model"]
    assert model["num_stages"] == 2
    assert model["proposals"]["num_proposals"] == 7
    stage = model["stage"]
    for node in (model["proposals"], model["backbone"], stage, stage["reuse"], stage["interaction"]):
        assert node["hidden_dim"] == 32
    for node in (stage["feed_forward"], stage["reuse"], stage["interaction"]):
        assert node["dropout"] == 0.1
    assert config["criterion"]["matcher"]["l1_cost"] == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+model.stage.reuse.num_head=4"],
            r"^model\.stage\.reuse\.num_head: unknown key; did you mean 'num_heads'",
        ),
        (["+criterion.matcher.class_cots=1"], r"^criterion\.matcher\.class_cots: unknown key"),
        (["+model.backbone.bottom_up.width=[16]"], r"^model\.backbone\.bottom_up\.width: unknown key"),
        (["+optim.momentum=0.9"], r"^optim\.momentum: unknown key"),
        (["+input.train.flip_prob=0.1"], r"^input\.train\.flip_prob: unknown key"),
        (["+train.clip=1"], r"^train\.clip: unknown key"),
        (["+data.train.image=x"], r"^data\.train\.image: unknown key; did you mean 'images'"),
        (["+model.stage.num_classes=4"], r"^model\.stage\.num_classes: is passed to"),
        (["schedule.length=long"], r"^schedule\.length: expected int"),
        (["train.lr_scaling=cubic"], r"^train\.lr_scaling must be one of none, sqrt, linear"),
        (["dropout=1.0"], r"dropout must be within 0"),
        (["weights.backbone=a", "weights.detector=b"], r"^weights\.backbone and detector are both set"),
    ],
)
def test_mistakes_in_the_real_configuration_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(*overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hidden_dim=20", r"^model.*hidden_dim 20 is not a multiple of num_heads 8"),
        ("schedule.milestones=[0.9,0.8]", r"^schedule: .*milestones must be ascending"),
        ("optim.lr=-1", r"^optim: .*learning rate"),
        ("weights.backbone=/nowhere/r50.pth", r"^weights\.backbone: weights '/nowhere/r50\.pth': SmallNet has no"),
    ],
)
def test_values_that_a_constructor_refuses_fail_before_data_is_loaded(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dry_build(checked(override))


def test_conf_holds_yaml_alone() -> None:
    assert {p.suffix for p in CONF.rglob("*") if p.is_file()} == {".yaml"}


def test_the_range_of_deep_pictures_is_checked_and_identifies_a_run() -> None:
    def identity(*overrides: str) -> str:
        return run_identity(checked(*overrides), {})

    assert checked()["input"]["pixel_range"] == "auto"
    assert checked("input.pixel_range=[0,4095]")["input"]["pixel_range"] == [0, 4095]
    assert identity() == identity("input.max_megapixels=20") == identity("input.max_megapixels=null")
    assert len({identity(), identity("input.pixel_range=uint12"), identity("input.pixel_range=[0,1000]")}) == 3
    for wrong, message in (
        ("input.pixel_range=uint7", r"^input\.pixel_range must be auto, uint8, .* or two numbers .*, got uint7"),
        ("input.pixel_range=[2,1]", r"^input\.pixel_range must be auto, .*, got \[2, 1\]"),
        ("input.max_megapixels=0", r"^input\.max_megapixels must be above 0 or null"),
    ):
        with pytest.raises(ConfigError, match=message):
            checked(wrong)

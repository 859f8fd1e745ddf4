"""Every row of Sparse R-CNN's ablations: as a detector that learns, and what it changes of the baseline."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments.config.build import build, build_criterion, dry_build, with_num_classes
from experiments.config.targets import ConfigError
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.rundir.changes import changes, flatten
from sparse_rcnn.rundir.identity import identity_config, run_identity
from sparse_rcnn.structures import StageOutput
from sparse_rcnn.weights import ModelCard, load_detector, save_detector
from tests.support import training
from tests.support.compared_detectors import all_detectors, rows_of
from tests.support.configs import CONF, checked
from tests.support.detectors import images_of, random_targets
from tests.support.resumes import EVERYTHING, assert_same, reference, stopped_run

ROWS = rows_of("sparse_rcnn")
HEADS = ["attention", "dynamic", "fc", "none"]
REUSES = ["concat", "none", "self_attention"]
NUM_CLASSES = 3
SIZES = [(64, 96), (50, 70)]


# --- every row, as a tiny detector -------------------------------------------------------------------------


def tiny_overrides(row: str) -> list[str]:
    """What makes a row tiny but is not its own factor."""
    sets = {*OmegaConf.load(CONF / "experiment" / f"{row}.yaml")}
    if row.startswith("backbone"):
        sets.add("model.backbone.bottom_up.num_blocks")
    return [override for override in training.DETECTOR if override.partition("=")[0] not in sets]


@functools.cache
def row_config(row: str) -> dict[str, Any]:
    config = checked(*tiny_overrides(row), *training.TRAINING, f"experiment={row}")
    config = with_num_classes(config, NUM_CLASSES)
    return config


@functools.cache
def crossed_config(head: str, reuse: str) -> dict[str, Any]:
    config = checked(*training.DETECTOR, *training.TRAINING, f"head={head}", f"reuse={reuse}")
    config = with_num_classes(config, NUM_CLASSES)
    return config


def new_detector(config: dict[str, Any], seed: int = 0, scatter: bool = False) -> SparseRCNN:
    """A detector with its own layout of boxes, or with different ones: where all are equal little can go wrong.

    Its deltas are small: those of fresh weights drive the boxes off the image within a few stages, where RoI features
    are zero and the layers that read them have a gradient of zero (or, in a deep cascade, roundings grow).
    """
    torch.manual_seed(seed)
    model: SparseRCNN = build(config, "model")
    with torch.no_grad():
        for stage in model.stages:
            stage.reg_tower.last.weight.mul_(0.05)
            stage.reg_tower.last.bias.mul_(0.05)
    if scatter:
        with torch.no_grad():
            boxes = model.proposals.boxes_cxcywh_norm
            boxes[:, :2].uniform_(0.2, 0.8)
            boxes[:, 2:].uniform_(0.1, 0.9)
    return model


def one_step(config: dict[str, Any], model: SparseRCNN, counts: list[int]) -> float:
    """Forward, loss and backward of a batch of two images with so many boxes; the loss."""
    images, sizes = images_of(SIZES)
    targets = random_targets(counts, sizes, NUM_CLASSES)
    outputs = model.train()(images, sizes)
    assert len(outputs) == model.num_stages
    total = build_criterion(config)(outputs, targets, sizes, (sum(counts),)).total
    total.backward()
    return total.item()


def assert_every_gradient_is_finite(model: SparseRCNN) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("row", ROWS)
def test_a_row_gives_every_parameter_a_gradient(row: str) -> None:
    config = row_config(row)
    dry_build(config)
    model = new_detector(config)
    assert math.isfinite(one_step(config, model, [3, 2]))
    assert_every_gradient_is_finite(model)
    for name, parameter in model.named_parameters():
        if name.startswith(("stages.", "proposals.")):
            assert parameter.grad.abs().max() > 0, name
    if model.proposals.features is not None:
        assert (model.proposals.features.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_on_an_image_without_boxes(row: str) -> None:
    config = row_config(row)
    model = new_detector(config)
    assert math.isfinite(one_step(config, model, [3, 0]))
    assert_every_gradient_is_finite(model)


def assert_same_outputs(got: list[StageOutput], wanted: list[StageOutput]) -> None:
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g.logits, w.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(g.boxes_xyxy_abs, w.boxes_xyxy_abs, rtol=1e-4, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_the_images_and_the_proposals_of_a_row_are_sets(row: str) -> None:
    model = new_detector(row_config(row), scatter=True).eval()
    images, sizes = images_of([(64, 96), (64, 96)])
    both = model(images, sizes)
    for n in range(2):
        alone = model(images[n : n + 1], sizes[n : n + 1])
        assert_same_outputs(alone, [StageOutput(o.logits[n, None], o.boxes_xyxy_abs[n, None]) for o in both])

    order = torch.randperm(model.proposals.num_proposals)
    for parameter in model.proposals.parameters():
        parameter.copy_(parameter[order])
    moved = model(images, sizes)
    assert_same_outputs(moved, [StageOutput(o.logits[:, order], o.boxes_xyxy_abs[:, order]) for o in both])


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_the_weights_file_of_a_row_restores_its_outputs(row: str, tmp_path: Path) -> None:
    config = row_config(row)
    model = new_detector(config, scatter=True).eval()
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
    card = ModelCard(config["model"], categories, short_side=64, max_long_side=96)
    save_detector(model, card, tmp_path / "m.safetensors")
    torch.manual_seed(1)
    loaded = load_detector(tmp_path / "m.safetensors")
    assert loaded.card == card
    assert loaded.state_dict().keys() == model.state_dict().keys()
    images, sizes = images_of(SIZES)
    for got, wanted in zip(loaded(images, sizes), model(images, sizes), strict=True):
        assert torch.equal(got.logits, wanted.logits)
        assert torch.equal(got.boxes_xyxy_abs, wanted.boxes_xyxy_abs)
    image = images[0, :, :64, :96]
    assert len(loaded.predict(image)) <= loaded.proposals.num_proposals
    assert len(loaded.predict_stages(image).boxes_xyxy_abs) > 0


# --- every head with every reuse ---------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", REUSES)
@pytest.mark.parametrize("head", HEADS)
def test_heads_and_reuses_cross_freely(head: str, reuse: str) -> None:
    config = crossed_config(head, reuse)
    dry_build(config)
    model = new_detector(config)
    needs_none = head in ("fc", "none") and reuse == "none"
    assert (model.proposals.features is None) == needs_none
    assert ("proposals.features" in model.state_dict()) == (not needs_none)
    loss = one_step(config, model, [3, 2])
    assert_every_gradient_is_finite(model)
    for name, parameter in model.named_parameters():
        if name.startswith(("stages.", "proposals.")):
            assert parameter.grad.abs().max() > 0, name

    again = new_detector(config)
    again.activation_checkpointing = True
    assert one_step(config, again, [3, 2]) == pytest.approx(loss, rel=1e-6)
    for (name, parameter), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)

    model.zero_grad(set_to_none=True)
    assert math.isfinite(one_step(config, model, [0, 0]))  # no box in the whole batch
    assert_every_gradient_is_finite(model)


@pytest.mark.parametrize("reuse", REUSES)
@pytest.mark.parametrize("head", HEADS)
def test_stages_depend_on_those_before_through_what_is_reused_alone(head: str, reuse: str) -> None:
    model = new_detector(crossed_config(head, reuse), scatter=True)
    images, sizes = images_of(SIZES)
    last = model(images, sizes)[-1]
    (last.logits.square().sum() + last.boxes_xyxy_abs.square().sum()).backward()
    gradients = [p.grad for p in model.stages[0].interaction.parameters()]
    if reuse == "none":  # boxes are detached
        assert all(g is None for g in gradients)
    else:
        assert all(g is not None and g.abs().max() > 0 for g in gradients)


def test_the_head_without_interaction_is_the_fully_connected_one() -> None:
    for reuse in REUSES:
        assert changes(crossed_config("none", reuse)["model"], crossed_config("fc", reuse)["model"]) == []


# --- the rows as configurations ----------------------------------------------------------------------------

STAGES, PROPOSALS = {"num_stages", "model.num_stages"}, {"num_proposals", "model.proposals.num_proposals"}
HEAD, CROP, DEPTH = {"model.stage.interaction"}, {"input.train.crop"}, {"model.backbone.bottom_up.depth"}
NO_FEED_FORWARD = {"model.stage.feed_forward"}
REUSE = {"model.stage.reuse"}
REUSED_DIM = {"model.stage.reused_dim"}
INIT, ENCODING = {"model.proposals.init"}, {"model.positional_encoding"}
DROPOUT = {"dropout", *(f"model.stage.{p}.dropout" for p in ("reuse", "interaction", "feed_forward"))}
FC = "sparse_rcnn.interaction.FullyConnected"
NO_REUSE = {"model.stage.reuse._target_": "sparse_rcnn.reuse.NoReuse", "model.stage.interaction.reused_dim": 0}

# Of each row at recipe=paper: the keys, or the nodes, in which it differs from the baseline, and what some become.
EXPECTED: dict[str, tuple[set[str], dict[str, Any]]] = {
    "baseline": (set(), {"num_stages": 6, "num_proposals": 100, "dropout": 0.0}),
    "backbone_resnet101": (DEPTH, {"model.backbone.bottom_up.depth": 101}),
    "backbone_resnet101_num_proposals_300_crop": (
        DEPTH | PROPOSALS | CROP,
        {"model.backbone.bottom_up.depth": 101, "num_proposals": 300, "input.train.crop.max_size": 600},
    ),
    "dropout_0_1": (DROPOUT, dict.fromkeys(DROPOUT, 0.1)),
    "head_attention": (
        HEAD,
        {
            "model.stage.interaction._target_": "sparse_rcnn.interaction.AttentionInteraction",
            "model.stage.interaction.num_heads": 8,
        },
    ),
    "head_fc_3_layers_reuse_none_stages_1": (
        HEAD | NO_FEED_FORWARD | REUSE | REUSED_DIM | STAGES,
        {**NO_REUSE, "num_stages": 1, "model.stage.interaction.num_fc": 3},
    ),
    "head_fc_4_layers_reuse_none_stages_1": (
        HEAD | NO_FEED_FORWARD | REUSE | REUSED_DIM | STAGES,
        {**NO_REUSE, "num_stages": 1, "model.stage.interaction.num_fc": 4},
    ),
    "head_fc_reuse_concat": (
        HEAD | NO_FEED_FORWARD | REUSE,
        {
            "model.stage.interaction._target_": FC,
            "model.stage.interaction.reused_dim": 256,
            "model.stage.reuse._target_": "sparse_rcnn.reuse.Concatenation",
        },
    ),
    "head_fc_reuse_none": (
        HEAD | NO_FEED_FORWARD | REUSE | REUSED_DIM,
        {**NO_REUSE, "model.stage.interaction._target_": FC},
    ),
    "head_fc_reuse_none_stages_1": (
        HEAD | NO_FEED_FORWARD | REUSE | REUSED_DIM | STAGES,
        {**NO_REUSE, "num_stages": 1, "model.stage.interaction.num_fc": 2, "model.stage.interaction.dim_fc": 1024},
    ),
    "head_none": (
        HEAD | NO_FEED_FORWARD,
        {"model.stage.interaction._target_": FC, "model.stage.interaction.reused_dim": 256},
    ),
    "num_proposals_300": (PROPOSALS, {"model.proposals.num_proposals": 300}),
    "num_proposals_300_crop": (
        PROPOSALS | CROP,
        {"model.proposals.num_proposals": 300, "input.train.crop.probability": 0.5, "input.train.crop.min_size": 384},
    ),
    "num_proposals_500": (PROPOSALS, {"model.proposals.num_proposals": 500}),
    "positional_encoding_sine": (
        ENCODING,
        {
            "model.positional_encoding._target_": "sparse_rcnn.positional_encoding.SineEncoding",
            "model.positional_encoding.temperature": 10000,
        },
    ),
    "proposal_init_center": (INIT, {"model.proposals.init.size": 0.1}),
    "proposal_init_grid": (INIT, {"model.proposals.init._target_": "sparse_rcnn.box_init.GridInit"}),
    "proposal_init_random": (INIT, {"model.proposals.init._target_": "sparse_rcnn.box_init.RandomInit"}),
    "stages_1": (STAGES, {"model.num_stages": 1}),
    "stages_12": (STAGES, {"model.num_stages": 12}),
    "stages_2": (STAGES, {"model.num_stages": 2}),
    "stages_3": (STAGES, {"model.num_stages": 3}),
    "stages_6": (set(), {"model.num_stages": 6}),
}


@functools.cache
def paper_row(row: str) -> dict[str, Any]:
    return checked("recipe=paper", "data.root=/coco", "weights.backbone=null", f"experiment={row}")


def test_expectations_cover_the_rows() -> None:
    assert sorted(EXPECTED) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_row_differs_from_the_baseline_in_its_factors_alone(row: str) -> None:
    factors, values = EXPECTED[row]
    baseline, config = identity_config(paper_row("baseline")), identity_config(paper_row(row))
    changed = {change.key for change in changes(baseline, config)}
    for key in changed:
        assert any(key == f or key.startswith(f"{f}.") for f in factors), key
    for factor in factors:
        assert any(key == factor or key.startswith(f"{factor}.") for key in changed), factor
    flat = flatten(config)
    assert {key: flat[key] for key in values} == values


def test_no_other_two_rows_are_the_same_run() -> None:
    every_row = [row for detector in all_detectors() for row in rows_of(detector)]
    identities = {row: run_identity(paper_row(row), {}) for row in every_row}
    assert identities["stages_6"] == identities["baseline"], "six stages are the paper's"
    assert len(set(identities.values())) == len(every_row) - 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["head=attention", "model.stage.interaction.num_heads=7"], "hidden_dim 64 is not a multiple of num_heads 7"),
        (["model.stage.reused_dim=0"], "reused_dim is 0, but SelfAttention hands over 64"),
        (["reuse=concat", "model.stage.reuse.hidden_dim=8"], "reused_dim is 64, but Concatenation hands over 8"),
        (["init=center", "model.proposals.init.size=0"], "size must be above 0"),
        (["head=fc", "model.stage.interaction.num_fc=0"], "num_fc, dim_fc and output_size must be at least 1"),
        (["head=none", "+model.stage.feed_forward.dropout=0.1"], r"^model\.stage\.feed_forward\.dropout: unknown key"),
        (["init=grid", "+model.proposals.init.size=0.1"], r"^model\.proposals\.init\.size: unknown key"),
    ],
)
def test_mistakes_in_the_configuration_of_a_variant_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dry_build(checked(*overrides))


# --- trainings ---------------------------------------------------------------------------------------------

TRAINED = ["head_attention", "head_fc_reuse_concat", "head_fc_reuse_none", "head_none"]


@pytest.mark.slow
@pytest.mark.parametrize("row", TRAINED)
def test_a_row_goes_on_as_if_never_stopped(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = (f"experiment={row}", *EVERYTHING)
    stopped_run(tmp_path, monkeypatch, *extra)
    run = training.train(training.overrides(tmp_path, *extra))
    assert_same(run, reference(extra))


@pytest.mark.slow
@pytest.mark.parametrize("row", TRAINED)
def test_the_loss_of_a_row_falls(row: str, tmp_path: Path) -> None:
    extra = (f"experiment={row}", "schedule.length=60", "train.checkpoint_every=60")
    losses = training.losses(training.train(training.overrides(tmp_path, *extra)))
    values = [losses[step]["train/loss/total"] for step in range(1, 61)]
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])

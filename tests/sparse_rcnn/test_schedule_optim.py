"""The learning-rate schedule, the optimizer's parameter groups and the rule for other batch sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sparse_rcnn.optim import parameter_groups, scale_lr
from sparse_rcnn.schedule import WarmupMultiStep
from tests.support.detectors import architecture, build, resnet, small_detector

PAPER: dict[str, Any] = {
    "length": 270_000,
    "unit": "steps",
    "milestones": [210_000 / 270_000, 250_000 / 270_000],
    "gamma": 0.1,
    "num_warmup_steps": 1000,
    "warmup_factor": 0.01,
}


def schedule(**changes: Any) -> WarmupMultiStep:
    return WarmupMultiStep(**(PAPER | changes))


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 2.5e-7),
        (1, 2.7475e-7),
        (500, 1.2625e-5),
        (999, 2.497525e-5),
        (1000, 2.5e-5),
        (1001, 2.5e-5),
        (209_999, 2.5e-5),
        (210_000, 2.5e-6),
        (249_999, 2.5e-6),
        (250_000, 2.5e-7),
        (269_999, 2.5e-7),
    ],
)
def test_the_papers_rates(step: int, lr: float) -> None:
    assert 2.5e-5 * schedule().factor(step, num_steps_per_epoch=7393) == pytest.approx(lr, rel=1e-12)


def test_epochs_count_steps_of_the_data_set() -> None:
    s = schedule(length=36, unit="epochs", milestones=[27 / 36, 33 / 36], num_warmup_steps=10)
    assert s.num_steps(num_steps_per_epoch=50) == 1800
    factors = [s.factor(step, 50) for step in (1349, 1350, 1649, 1650)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
    assert s.num_steps(num_steps_per_epoch=7) == 252
    assert s.factor(188, 7) == 1
    assert s.factor(189, 7) == pytest.approx(0.1)


def test_milestones_are_fractions_so_a_shorter_training_keeps_its_shape() -> None:
    short = schedule(length=2700, num_warmup_steps=10)
    assert [short.factor(step, 1) for step in (2099, 2100, 2499, 2500)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_no_milestones_no_warmup_and_a_milestone_at_the_end() -> None:
    assert {schedule(milestones=[], num_warmup_steps=0).factor(s, 1) for s in range(0, 270_000, 9999)} == {1.0}
    assert schedule(milestones=[1.0]).factor(269_999, 1) == 1


def test_warmup_continues_through_a_milestone() -> None:
    s = schedule(length=100, milestones=[0.5], num_warmup_steps=100, warmup_factor=0.1)
    assert s.factor(50, 1) == pytest.approx(0.1 * (0.1 * 0.5 + 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "iterations"}, "unit must be 'steps' or 'epochs', got 'iterations'"),
        ({"length": 0}, "length must be at least 1, got 0"),
        (
            {"milestones": [0.9, 0.8]},
            r"milestones must be ascending fractions of the length, got \[0.9, 0.8\]",
        ),
        ({"milestones": [210_000]}, "milestones must be ascending fractions"),
        ({"milestones": [0.0]}, "milestones must be ascending fractions"),
        ({"milestones": [float("nan")]}, "milestones must be ascending fractions"),
        ({"num_warmup_steps": -1}, "num_warmup_steps must not be negative, got -1"),
        ({"warmup_factor": 0.0}, "warmup_factor must be above 0 and at most 1, got 0.0"),
        ({"warmup_factor": 1.5}, "warmup_factor must be above 0 and at most 1, got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


@pytest.mark.parametrize(
    ("rule", "batch_size", "factor"),
    [
        ("none", 4, 1),
        ("none", 64, 1),
        ("sqrt", 4, 0.5),
        ("sqrt", 64, 2),
        ("linear", 4, 0.25),
        ("linear", 24, 1.5),
    ],
)
def test_lr_scaling_rules(rule: str, batch_size: int, factor: float) -> None:
    assert scale_lr(2.5e-5, rule, batch_size, reference_batch_size=16) == pytest.approx(2.5e-5 * factor, rel=1e-12)


def test_an_unknown_lr_scaling_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^lr_scaling must be one of none, sqrt, linear, got 'cubic'"):
        scale_lr(1.0, "cubic", 8, 16)


def test_one_group_of_all_trainable_parameters() -> None:
    with torch.device("meta"):
        model = build(architecture(bottom_up=resnet(18)))
    (group,) = parameter_groups(model, lr=0.5, backbone_lr_multiplier=1.0)
    assert group["lr"] == 0.5
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]
    assert len(group["params"]) == len(list(model.parameters())) - 5


def test_two_groups_where_the_backbone_has_its_own_rate() -> None:
    model = small_detector()
    rest, backbone = parameter_groups(model, lr=0.5, backbone_lr_multiplier=0.1)
    assert (rest["lr"], backbone["lr"]) == (0.5, 0.05)
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(names[id(p)].startswith("backbone.") for p in backbone["params"])
    assert not any(names[id(p)].startswith("backbone.") for p in rest["params"])
    assert len(rest["params"]) + len(backbone["params"]) == len(names)


def test_weight_decay_is_on_everything() -> None:
    model = small_detector()
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=0.1, backbone_lr_multiplier=1.0), weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5), msg=name)
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.5)

"""Parameter groups and the scaling of learning rates."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.optim import parameter_groups, scale_lr
from tests.support.detectors import architecture, build, resnet, small_detector


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
    (group,) = parameter_groups(model, lr=0.5, backbone_lr_multiplier=1.0, lr_multipliers={})
    assert group["lr"] == 0.5
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]
    assert len(group["params"]) == len(list(model.parameters())) - 5


def test_two_groups_where_the_backbone_has_its_own_rate() -> None:
    model = small_detector()
    rest, backbone = parameter_groups(model, lr=0.5, backbone_lr_multiplier=0.1, lr_multipliers={})
    assert (rest["lr"], backbone["lr"]) == (0.5, 0.05)
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(names[id(p)].startswith("backbone.") for p in backbone["params"])
    assert not any(names[id(p)].startswith("backbone.") for p in rest["params"])
    assert len(rest["params"]) + len(backbone["params"]) == len(names)


def test_groups_by_parts_of_names_whose_multipliers_multiply() -> None:
    model = small_detector()
    multipliers = {"bottom_up": 0.5, "stages.1": 0.25, "backbone": 1.0}
    groups = parameter_groups(model, lr=2.0, backbone_lr_multiplier=0.1, lr_multipliers=multipliers)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {
        name: 2.0
        * (0.1 if name.startswith("backbone.") else 1)
        * (0.5 if "bottom_up" in name else 1)
        * (0.25 if "stages.1." in name else 1)
        for name, _ in model.named_parameters()
    }
    assert {name: rate_of[id(p)] for name, p in model.named_parameters()} == pytest.approx(expected)
    assert groups[0]["lr"] == 2.0
    assert len(groups) == len(set(expected.values()))


def test_a_part_is_whole_components_of_a_name() -> None:
    def linear() -> torch.nn.Module:
        return torch.nn.Linear(1, 1, bias=False)

    stem = torch.nn.ModuleDict({"conv": linear(), "conv2": linear()})
    backbone = torch.nn.ModuleDict({"stem": stem})
    model = torch.nn.ModuleDict({"backbone": backbone, "backward": linear(), "head": torch.nn.Sequential(linear())})
    for part, number in {
        "backbone": 2, "backbone.stem": 2, "stem.conv": 1, "conv": 1, "weight": 4, "0": 1, "head.0.weight": 1,
    }.items():  # fmt: skip
        groups = parameter_groups(model, 1.0, 1.0, {part: 0.5})
        assert {group["lr"]: len(group["params"]) for group in groups}[0.5] == number, part
    for part in ("back", "stem.con", "bone.stem", "stem..conv", "head.", ".", ""):
        with pytest.raises(ValueError, match=rf"^lr_multipliers: no parameter of the model has '{part}' in its name"):
            parameter_groups(model, 1.0, 1.0, {part: 0.5})


@pytest.mark.parametrize(
    ("part", "hint"),
    [("stage", r" \(did you mean 'stages'\?\)"), ("stages.1.", r" \(did you mean 'stages.1'\?\)"), ("qqq", "")],
)
def test_a_part_of_no_name_is_refused_with_the_nearest(part: str, hint: str) -> None:
    message = rf"^lr_multipliers: no parameter of the model has '{part}' in its name{hint}; give whole components, as"
    with pytest.raises(ValueError, match=message):
        parameter_groups(small_detector(), 1.0, 1.0, {part: 0.1})


def test_weight_decay_is_on_everything() -> None:
    model = small_detector()
    groups = parameter_groups(model, lr=0.1, backbone_lr_multiplier=1.0, lr_multipliers={})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5), msg=name)
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.5)

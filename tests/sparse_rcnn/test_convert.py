"""Released checkpoints to ours and back, on the meta device: names and shapes; values are in test_golden."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.convert import infer_architecture, ours_to_released, released_to_ours
from sparse_rcnn.errors import CheckpointError
from tests.support.detectors import architecture, resnet

State = dict[str, Tensor]


def released(depth: int = 18, **changes: Any) -> tuple[State, State, dict[str, Any]]:
    """Our state dict, the same in the released layout, and the architecture; all without storage."""
    described = architecture(bottom_up=resnet(depth), **changes)
    with torch.device("meta"):
        ours = build(described).state_dict()
    return ours, ours_to_released(ours, described), described


@pytest.mark.parametrize(
    ("depth", "num_stages", "num_proposals", "num_classes", "hidden_dim"),
    [
        (18, 3, 20, 5, 32),
        (34, 1, 1, 1, 16),
        (50, 6, 100, 80, 256),
        (101, 6, 300, 80, 256),
        (18, 12, 500, 1, 64),
    ],
)
def test_round_trip(depth: int, num_stages: int, num_proposals: int, num_classes: int, hidden_dim: int) -> None:
    ours, theirs, described = released(
        depth,
        num_stages=num_stages,
        num_proposals=num_proposals,
        num_classes=num_classes,
        hidden_dim=hidden_dim,
    )
    assert len(theirs) == len(ours), "no two tensors share a name"
    back, inferred = released_to_ours(theirs)
    assert inferred == described
    assert back.keys() == ours.keys()
    assert all(back[name] is ours[name] for name in ours), "every tensor came back under its own name"


def test_names_of_the_release() -> None:
    _, theirs, _ = released(50, num_stages=2)
    shapes = {name: tuple(t.shape) for name, t in theirs.items()}
    assert shapes["init_proposal_boxes.weight"] == (6, 4)
    assert shapes["backbone.bottom_up.stem.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["backbone.bottom_up.res5.0.shortcut.norm.running_var"] == (2048,)
    assert shapes["backbone.fpn_lateral5.weight"] == (16, 2048, 1, 1)
    assert shapes["head.head_series.1.self_attn.in_proj_weight"] == (48, 16)
    assert shapes["head.head_series.1.inst_interact.dynamic_layer.weight"] == (128, 16)
    assert shapes["head.head_series.1.cls_module.0.weight"] == (16, 16)
    assert shapes["head.head_series.1.reg_module.7.bias"] == (16,)
    assert shapes["head.head_series.1.class_logits.bias"] == (4,)
    assert shapes["head.head_series.1.bboxes_delta.weight"] == (4, 16)


def test_names_of_one_stage() -> None:
    _, theirs, _ = released(num_stages=1)
    prefix = "head.head_series.0."
    norms = ["norm1", "norm2", "norm3", *(f"inst_interact.norm{i}" for i in (1, 2, 3))]
    norms += ["cls_module.1", "reg_module.1", "reg_module.4", "reg_module.7"]
    linears = ["linear1", "linear2", "inst_interact.dynamic_layer", "inst_interact.out_layer"]
    linears += ["self_attn.out_proj", "class_logits", "bboxes_delta"]
    wanted = {f"{module}.{leaf}" for module in norms + linears for leaf in ("weight", "bias")}
    wanted |= {"self_attn.in_proj_weight", "self_attn.in_proj_bias", "cls_module.0.weight"}
    wanted |= {f"reg_module.{i}.weight" for i in (0, 3, 6)}
    assert {n.removeprefix(prefix) for n in theirs if n.startswith(prefix)} == wanted


def refused(state: State) -> str:
    with pytest.raises(CheckpointError) as caught:
        released_to_ours(state)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_of_other_models_are_refused_naming_the_first_tensor() -> None:
    start = "not a released Sparse R-CNN checkpoint: "
    assert refused({}) == start + "tensor init_proposal_features.weight is missing"
    with torch.device("meta"):
        imagenet = build(resnet(18)).state_dict()
    assert refused(imagenet) == start + "tensor init_proposal_features.weight is missing"
    ours, _, _ = released()
    assert refused(ours) == start + "tensor init_proposal_features.weight is missing"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "head.head_series.0.class_logits.weight",
            "tensor head.head_series.0.class_logits.weight is missing",
        ),
        ("backbone.fpn_output3.bias", "backbone.fpn_output3.bias is missing"),
        ("head.head_series.1.norm2.weight", "head.head_series.1.norm2.weight is missing"),
        ("backbone.bottom_up.res2.0.conv1.norm.running_mean", "res2.0.conv1.norm.running_mean is missing"),
    ],
)
def test_a_missing_tensor_is_named(name: str, message: str) -> None:
    _, theirs, _ = released()
    del theirs[name]
    assert message in refused(theirs)


def test_surplus_tensors_and_other_shapes_are_named_and_counted() -> None:
    _, theirs, _ = released()
    meta = torch.empty(3, device="meta")
    assert "mask_head.weight is not part of the model" in refused(theirs | {"mask_head.weight": meta})
    message = refused(theirs | {"backbone.fpn_output3.bias": meta})
    assert "backbone.fpn_output3.bias has shape (3,), not (16,)" in message
    message = refused(theirs | {f"extra.{i}": meta for i in range(5)})
    assert message.endswith("extra.2 is not part of the model and 2 more")


def test_impossible_shapes_stages_and_backbones_are_refused() -> None:
    _, theirs, _ = released(num_stages=3)
    flat = torch.empty(96, device="meta")
    assert "init_proposal_features.weight has shape (96,), 2 dimensions expected" in refused(
        theirs | {"init_proposal_features.weight": flat}
    )
    without = {n: t for n, t in theirs.items() if not n.startswith("head.head_series.1.")}
    assert "it holds stages [0, 2]" in refused(without)
    blocks = {n: t for n, t in theirs.items() if not n.startswith("backbone.bottom_up.res4.1.")}
    assert "the backbone is no ResNet-18, 34, 50 or 101: res4 has 1 basic blocks" in refused(blocks)
    without_norm = {n: t for n, t in theirs.items() if ".res4.1.conv1." not in n}
    assert "backbone.bottom_up.res4.1.conv1" in refused(without_norm)


def test_heads_that_do_not_divide_are_refused_in_one_line() -> None:
    _, theirs, _ = released()
    odd = {
        n: torch.empty([12 if s == 16 else 36 if s == 48 else s for s in t.shape], device="meta")
        for n, t in theirs.items()
    }
    assert "hidden_dim 12 is not a multiple of num_heads 8" in refused(odd)


def test_variants_without_released_names_are_refused_naming_tensors() -> None:
    described = architecture()  # the small backbone
    with torch.device("meta"):
        state = build(described).state_dict()
    with pytest.raises(CheckpointError, match=r"no name for: backbone\.bottom_up\.stem\.0\.weight, .* and \d+ more$"):
        ours_to_released(state, described)


def test_a_variant_that_lacks_tensors_is_refused() -> None:
    ours, _, described = released()
    state = {n: t for n, t in ours.items() if ".reuse." not in n}
    with pytest.raises(CheckpointError, match=r"head\.head_series\.0\.self_attn\.in_proj_weight is missing"):
        ours_to_released(state, described)


@pytest.mark.parametrize(
    ("node", "key", "value"),
    [
        ("backbone.bottom_up", "stride_in_1x1", True),
        ("stage.reuse", "num_heads", 4),
        ("roi_pooler", "sampling_ratio", 1),
        ("", "pixel_mean", [0.0, 0.0, 0.0]),
    ],
)
def test_settings_that_the_layout_cannot_hold_are_refused(node: str, key: str, value: Any) -> None:
    ours, _, described = released(50)
    changed = copy.deepcopy(described)
    where = changed
    for part in node.split(".") if node else []:
        where = where[part]
    where[key] = value
    dotted = ".".join(part for part in ("model", node, key) if part).replace(".", r"\.")
    with pytest.raises(CheckpointError, match=f"the released layout cannot say that {dotted} is "):
        ours_to_released(ours, changed)


def test_settings_of_training_and_speed_do_not_matter() -> None:
    ours, theirs, described = released()
    changed = copy.deepcopy(described)
    changed["roi_pooler"]["_target_"] = "sparse_rcnn.roi_pooler.GatherRoIAlign"
    changed["stage"]["dropout"] = 0.1
    changed["backbone"]["bottom_up"]["num_frozen_stages"] = 0
    assert ours_to_released(ours, changed).keys() == theirs.keys()


def test_what_leaves_no_trace_is_as_in_the_paper() -> None:
    inferred = infer_architecture(released()[1])
    assert inferred["stage"]["reuse"]["num_heads"] == 8
    assert inferred["stage"]["feed_forward"]["dropout"] == 0.0
    assert inferred["roi_pooler"] == architecture()["roi_pooler"]
    assert inferred["backbone"]["bottom_up"] == resnet(18)
    assert inferred["stage"]["interaction"]["dim_dynamic"] == 4
    assert inferred["stage"]["feed_forward"]["dim_feedforward"] == 32

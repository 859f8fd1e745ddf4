"""The authors' DETR in numbers (../shared/golden/detr): cases a, b, without position, and six optimizer steps."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.architecture import build
from sparse_rcnn.boxes import cxcywh_to_xyxy, whwh
from sparse_rcnn.criterion import Losses, Share
from sparse_rcnn.detr.criterion import DETRCriterion
from sparse_rcnn.detr.detector import DETR
from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.detr.padding_mask import at_resolution, padding_mask
from sparse_rcnn.detr.postprocess import select_query_detections
from sparse_rcnn.detr.released_names import ours_to_released, released_name, released_to_ours
from sparse_rcnn.structures import Targets
from tests.support.detr import detr_architecture, detr_criterion, resnet, softmax_matcher, stacked
from tests.support.paths import shared

CASES = ["detr_a", "detr_b", "detr_nopos"]
FACTOR = 5.0  # times the noise of the reference itself: see golden/detr/README.md


@cache
def recipe() -> ModuleType:
    """The module that redraws the weights."""
    found = importlib.util.spec_from_file_location("golden_detr_recipe", shared("golden/detr/detr_recipe.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def built(meta: dict[str, Any]) -> DETR:
    """The model of a case, its weights still those of the initialisation."""
    b = meta["build"]
    assert b["position_embedding"] == "sine"
    assert b["enc_layers"] == b["dec_layers"]
    assert not b["pre_norm"]
    model: DETR = build(
        detr_architecture(
            num_classes=b["num_classes"],
            num_queries=b["num_queries"],
            hidden_dim=b["hidden_dim"],
            num_heads=b["nheads"],
            num_layers=b["enc_layers"],
            dim_feedforward=b["dim_feedforward"],
            dropout=b["dropout"],
            with_position=meta["case"] != "detr_nopos",
            dilation=b["dilation"],
            bottom_up=resnet(int(b["backbone"].removeprefix("resnet"))),
        )
    )
    return model


@dataclass(frozen=True)
class Case:
    """A golden case: what the reference computed, and the model and inputs to compute it again."""

    reference: dict[str, Any]
    meta: dict[str, Any]
    model: DETR
    images: Tensor
    sizes: Tensor
    targets: Targets

    @property
    def noise(self) -> dict[str, Any]:
        found: dict[str, Any] = self.meta["self_noise_2threads_onednn_vs_1thread_native"]
        return found

    @property
    def criterion(self) -> DETRCriterion:
        return detr_criterion(self.model.num_queries)

    @property
    def share(self) -> Share:
        return self.criterion.counts(self.targets)


def load(name: str) -> Case:
    reference, meta = recipe().load(name)
    model = built(meta)
    model.load_state_dict(released_to_ours(recipe().released_state_dict(meta["param_names"], meta["salt"])))
    height, width = (max(i.shape[d] for i in reference["images"]) for d in (1, 2))
    images = torch.zeros(len(reference["images"]), 3, height, width, dtype=torch.uint8)
    for padded, image in zip(images, reference["images"], strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    sizes = torch.tensor([i.shape[1:] for i in reference["images"]])
    boxes = [cxcywh_to_xyxy(t["boxes"]) * s for t, s in zip(reference["targets"], whwh(sizes), strict=True)]
    targets = Targets.from_lists(boxes, [t["labels"] for t in reference["targets"]])
    return Case(reference, meta, model, images, sizes, targets)


@dataclass(frozen=True)
class Result:
    """A case computed here: a training step with its gradients, and a pass in evaluation mode."""

    case: Case
    outputs: list[QueryOutput]
    losses: Losses
    gradients: dict[str, Tensor]  # by released name
    evaluated: list[QueryOutput]
    seen: dict[str, list[Tensor]]  # what modules put out in evaluation mode


@pytest.fixture(scope="module", params=CASES)
def result(request: pytest.FixtureRequest) -> Result:
    case = load(request.param)
    model = case.model.train()
    outputs = model(case.images, case.sizes)
    losses = case.criterion(outputs, case.targets, case.sizes, case.share)
    losses.total.backward()
    gradients = {released_name(n): p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.eval()
    seen: dict[str, list[Tensor]] = {}
    modules: dict[str, nn.Module] = {
        "backbone": model.backbone,
        "src": model.input_proj,
        "position": model.position_encoding,
        "hs": model.transformer.decoder.norm,
    } | {f"encoder {i}": layer for i, layer in enumerate(model.transformer.encoder.layers)}
    hooks = [
        module.register_forward_hook(lambda m, i, output, key=key: seen.setdefault(key, []).append(output))
        for key, module in modules.items()
    ]
    with torch.no_grad():
        evaluated = model(case.images, case.sizes)
    for hook in hooks:
        hook.remove()
    return Result(case, outputs, losses, gradients, evaluated, seen)


def worst(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max()) if a.numel() else 0.0


def test_pixels_are_the_references_to_the_bit(result: Result) -> None:
    wanted, mask = recipe().pixels(result.case.reference["images"])
    case = result.case
    assert torch.equal(case.model.normalize(case.images, case.sizes), wanted)
    assert torch.equal(padding_mask(case.sizes, *case.images.shape[-2:]), mask)


def test_logits_and_boxes_of_every_layer(result: Result) -> None:
    reference, noise = result.case.reference, result.case.noise
    for outputs in (result.outputs, result.evaluated):
        for key, got in zip(("logits", "boxes"), stacked(outputs), strict=True):
            assert len(got) == len(noise[f"{key}_per_layer"])
            for layer, allowed in enumerate(noise[f"{key}_per_layer"]):
                assert worst(got[layer], reference[key][layer]) <= FACTOR * allowed, (key, layer)


def test_losses(result: Result) -> None:
    reference, last = result.case.reference, len(result.outputs) - 1
    got = {
        name + ("" if layer == last else f"_{layer}"): result.losses[part][layer].item()
        for name, part in (("loss_ce", "loss_class"), ("loss_bbox", "loss_l1"), ("loss_giou", "loss_giou"))
        for layer in range(last + 1)
    }
    assert got == pytest.approx(reference["loss_weighted"], rel=1e-5)
    weights = {"ce": 1, "bbox": 5, "giou": 2}
    for name, value in got.items():
        assert value / weights[name.split("_")[1]] == pytest.approx(reference["loss"][name], rel=1e-5)
    assert result.losses.total.item() == pytest.approx(reference["loss_total"], rel=1e-5)


def test_matched_pairs_are_identical(result: Result) -> None:
    case = result.case
    m = softmax_matcher()(*stacked(result.outputs), case.targets, case.sizes)
    for layer, images in enumerate(case.reference["indices"]):
        for n, (queries, targets) in enumerate(images):
            here = (m.stage == layer) & (m.image == n)
            assert m.proposal[here].tolist() == queries.tolist()
            assert m.target[here].tolist() == targets.tolist()


def test_matching_costs(result: Result) -> None:
    # The costs of the reference's own outputs, so that their rounding alone remains.
    reference, case = result.case.reference, result.case
    cost = softmax_matcher().cost(reference["logits"], reference["boxes"], case.targets, case.sizes)
    for layer, images in enumerate(reference["cost"]):
        for n, wanted in enumerate(images):
            torch.testing.assert_close(cost[layer, n, :, : wanted.shape[1]], wanted, rtol=1e-5, atol=1e-5)


def test_gradient_norm_of_every_parameter(result: Result) -> None:
    reference = result.case.reference
    trained = {name for name, norm in reference["grad_norm"].items() if norm is not None}
    assert result.gradients.keys() == trained
    # Of the first self-attention of the decoder, whose input is zeros, the gradient of the queries' and keys' rows is
    # zero but for rounding: hence the floor. Elsewhere rounding moves ReLUs.
    floor = 1e-6 * reference["grad_total_norm"]
    allowed = FACTOR * result.case.noise["grad_norm_rel"][0]
    for name in trained:
        wanted = reference["grad_norm"][name]
        got = result.gradients[name].double().norm().item()
        assert abs(got - wanted) <= allowed * max(wanted, floor), name
    total = math.sqrt(sum(g.double().pow(2).sum().item() for g in result.gradients.values()))
    assert total == pytest.approx(reference["grad_total_norm"], rel=allowed)


def test_gradients_themselves(result: Result) -> None:
    # As vectors, |difference| / |reference|: a ReLU that flips at zero moves one element by more.
    reference = result.case.reference
    allowed = FACTOR * max(result.case.noise["grad_norm_rel"][0], 1e-5)
    floor = 1e-6 * reference["grad_total_norm"]
    assert reference["gradients"]
    for key, wanted in reference["gradients"].items():
        name, corner, _ = key.partition("[")
        got = result.gradients[name]
        got = got[:4, :8] if corner else got
        assert float((got - wanted).norm()) <= allowed * max(float(wanted.norm()), floor), key


def test_values_on_the_way(result: Result) -> None:
    reference, case = result.case.reference, result.case
    first8, every8 = slice(0, 8), slice(None, None, 1 if case.meta["build"]["hidden_dim"] == 64 else 8)
    (backbone,), (src,) = result.seen["backbone"], result.seen["src"]
    mask = at_resolution(padding_mask(case.sizes, *case.images.shape[-2:]), *src.shape[-2:])
    assert torch.equal(mask, reference["padding_mask"])
    scale = float(reference["backbone_first8"][0].abs().max())
    assert worst(backbone[:, first8], reference["backbone_first8"][0]) <= 1e-5 * scale
    scale = float(reference["src_first8"].abs().max())
    torch.testing.assert_close(src[:, first8], reference["src_first8"], rtol=1e-4, atol=1e-5 * scale)
    if case.model.with_position:
        (position,) = result.seen["position"]
        assert worst(position[:, every8], reference["pos"]) <= 1e-6
    else:
        assert "position" not in result.seen, "computed for nothing"
    allowed = FACTOR * case.noise["memory_first8"]
    for i, wanted in enumerate(reference["encoder_layers_first8"]):
        (tokens,) = result.seen[f"encoder {i}"]
        assert worst(tokens[..., first8].transpose(0, 1), wanted) <= allowed, i
    memory = reference["memory_first8"].flatten(2).transpose(1, 2)
    assert worst(tokens[..., first8], memory) <= allowed
    assert worst(torch.stack(result.seen["hs"])[..., first8], reference["hs_first8"]) <= allowed


def test_detections(result: Result) -> None:
    reference, noise = result.case.reference, result.case.noise
    detections = select_query_detections(result.evaluated[-1], torch.as_tensor(reference["out_sizes"]))
    assert [len(d) for d in detections] == result.case.meta["detections_kept"]
    for found, wanted in zip(detections, reference["detections"], strict=True):
        order = wanted["scores"].argsort(descending=True, stable=True)  # the reference does not sort
        assert torch.equal(found.labels, wanted["labels"][order])
        assert worst(found.scores, wanted["scores"][order]) <= FACTOR * noise["detection_scores"]
        assert worst(found.boxes_xyxy_abs, wanted["boxes"][order]) <= FACTOR * noise["detection_boxes_pixels"]


@pytest.mark.parametrize("name", ["detr_a", "detr_b"])
def test_names_shapes_and_trainable_parameters_are_the_releases(name: str) -> None:
    meta = json.loads(shared(f"golden/detr/case_{name}.json").read_text())
    rows = json.loads(shared(f"golden/detr/{meta['param_names']}").read_text())
    with torch.device("meta"):
        model = built(meta)
    parameters = dict(model.named_parameters())
    got = {}
    for own_name, tensor in model.state_dict().items():
        kind = "parameter" if own_name in parameters else "buffer"
        trainable = own_name in parameters and parameters[own_name].requires_grad
        got[released_name(own_name)] = (list(tensor.shape), kind, trainable)
    assert got == {r["name"]: (r["shape"], r["kind"], r["trainable"]) for r in rows}
    assert sum(p.numel() for p in parameters.values() if p.requires_grad) == meta["trainable_parameters"]
    assert {released_name(n) for n, p in parameters.items() if not p.requires_grad} == set(meta["frozen"])


def test_a_dilated_model_has_the_same_parameters() -> None:
    meta = json.loads(shared("golden/detr/case_detr_a.json").read_text())
    meta["build"]["dilation"] = True
    rows = json.loads(shared(f"golden/detr/{meta['param_names']}").read_text())
    with torch.device("meta"):
        model = built(meta)
    got = {released_name(name): list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert got == {r["name"]: r["shape"] for r in rows}


@dataclass
class Steps:
    """Outcome of six optimizer steps: losses and norms by step, and the weights after them."""

    losses: list[float]
    norms: list[float]
    after: dict[str, torch.Tensor]


def six_steps(wanted: dict[str, Any], rounding: float) -> Steps:
    """The steps of the reference; each stage of the ResNet gives its maps times 1 + ``rounding`` * noise."""
    case = load("detr_b")
    model, criterion = case.model.train(), case.criterion
    settings = case.meta["optimizer"]
    rates = {name: group["lr"] for group in settings["groups"] for name in group["names"]}
    trained = {released_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() <= rates.keys()
    generator = torch.Generator().manual_seed(0)
    for stage in list(model.backbone.bottom_up.children())[4:]:
        stage.register_forward_hook(
            lambda _, __, out: out * (1 + rounding * torch.randn(out.shape, generator=generator)) if rounding else out
        )
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": rates[name]} for name, p in trained.items()],
        betas=settings["betas"],
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    steps = Steps([], [], {})
    for _ in wanted["steps"]:
        optimizer.zero_grad()
        losses = criterion(model(case.images, case.sizes), case.targets, case.sizes, case.share)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), settings["clip_max_norm"])
        optimizer.step()
        steps.losses.append(losses.total.item())
        steps.norms.append(norm.item())
    steps.after.update(ours_to_released(model.state_dict()))
    assert trained.keys() <= wanted["after_sum_and_abssum"].keys()
    return steps


def test_six_optimizer_steps() -> None:
    wanted = json.loads(shared("golden/detr/optim_detr_b.json").read_text())
    ours = six_steps(wanted, rounding=0.0)
    # Adam's first steps follow the sign of gradients that are mere rounding. The reference's noise is one measurement
    # of how far that goes; another is a training whose maps differ by half a unit in the last place.
    rounded = six_steps(wanted, rounding=2.0**-24)
    for key, got, other in (
        ("loss_total", ours.losses, rounded.losses),
        ("grad_norm_before_clip", ours.norms, rounded.norms),
    ):
        noise = 1e-6
        for i, row in enumerate(wanted["steps"]):
            noise = max(noise, wanted["self_noise_rel_per_step"][i], abs(got[i] - other[i]) / row[key])
            assert got[i] == pytest.approx(row[key], rel=FACTOR * noise), (key, i)
    for name, (total, absolute) in wanted["after_sum_and_abssum"].items():
        # A bias of keys changes no softmax: its gradient is rounding, whose sign Adam's first steps follow.
        # Measured of the others: below 1e-6, and up to 6e-6 on a processor without AVX-512.
        allowed = 2e-5 * absolute
        assert ours.after[name].double().sum().item() == pytest.approx(total, abs=allowed), name

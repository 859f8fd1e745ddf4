"""The authors' own numbers (../shared/golden/detr): case ddetr_b and six optimizer steps."""

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
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.boxes import cxcywh_to_xyxy
from sparse_rcnn.criterion import Losses
from sparse_rcnn.deformable_detr.attention import MultiScaleDeformableAttention
from sparse_rcnn.deformable_detr.detector import DeformableDETR, EncodedLevels
from sparse_rcnn.deformable_detr.encoder import cell_reference_points
from sparse_rcnn.deformable_detr.released_names import released_deformable_to_ours, released_names
from sparse_rcnn.detr.padding_mask import at_resolution, padding_mask
from sparse_rcnn.query_boxes import QueryBoxes
from sparse_rcnn.structures import Targets
from tests.support.deformable_detr import deformable_criterion, deformable_matcher
from tests.support.paths import shared

CASE = "ddetr_b"
FACTOR = 5.0  # times the noise of the reference itself: see golden/detr/README.md


@cache
def recipe() -> ModuleType:
    """The module that redraws the weights."""
    found = importlib.util.spec_from_file_location("detr_recipe", shared("golden/detr/detr_recipe.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Case:
    """What the reference computed, and the model and inputs to compute it again."""

    reference: dict[str, Any]
    meta: dict[str, Any]
    model: DeformableDETR
    images: Tensor
    sizes: Tensor
    targets: Targets

    @property
    def noise(self) -> dict[str, Any]:
        noise: dict[str, Any] = self.meta["self_noise_2threads_onednn_vs_1thread_native"]
        return noise

    def losses(self, outputs: list[QueryBoxes]) -> Losses:
        losses: Losses = deformable_criterion()(outputs, self.targets, self.sizes, (self.meta["num_boxes"],))
        return losses


def load() -> Case:
    reference, meta = recipe().load(CASE)
    state = recipe().released_state_dict(meta["param_names"], meta["salt"])
    ours, architecture = released_deformable_to_ours(state, meta["build"]["nheads"])
    with torch.device("meta"):  # drawing 25 million numbers to throw them away takes longer than the case
        model = build(architecture)
    model = model.to_empty(device="cpu")
    model.load_state_dict(ours)
    fresh = {"pixel_mean": architecture["pixel_mean"], "pixel_std": architecture["pixel_std"]}
    for name, values in fresh.items():
        getattr(model, name).copy_(torch.tensor(values).view(3, 1, 1))
        getattr(model, name.replace("pixel", "unit")).copy_(torch.tensor([v / 255 for v in values]).view(3, 1, 1))
    sizes = torch.tensor(meta["sizes"])
    images = torch.zeros(len(sizes), 3, *sizes.amax(0).tolist(), dtype=torch.uint8)
    for padded, image in zip(images, reference["images"], strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    boxes = [
        cxcywh_to_xyxy(t["boxes"]) * torch.tensor([w, h, w, h])
        for t, (h, w) in zip(reference["targets"], meta["sizes"], strict=True)
    ]
    targets = Targets.from_lists(boxes, [t["labels"] for t in reference["targets"]])
    return Case(reference, meta, model, images, sizes, targets)


@dataclass(frozen=True)
class Result:
    """The case computed here: a training step with its gradients, and what lies between."""

    case: Case
    outputs: list[QueryBoxes]
    losses: Losses
    gradients: dict[str, Tensor]  # by released name, of shared heads under the first one
    encoded: EncodedLevels
    encoder_layers: list[Tensor]
    first_attention: Tensor
    projected: list[Tensor]

    @property
    def logits(self) -> Tensor:
        return torch.stack([o.logits for o in self.outputs]).detach()

    @property
    def boxes(self) -> Tensor:
        return torch.stack([o.boxes_cxcywh_norm for o in self.outputs]).detach()


@pytest.fixture(scope="module")
def result() -> Result:
    case = load()
    model = case.model.train()
    seen: dict[str, list[Any]] = {"attention": [], "layers": [], "projected": [], "encoded": []}
    attention = next(m for m in model.encoder.modules() if isinstance(m, MultiScaleDeformableAttention))
    hooks = [
        attention.register_forward_hook(lambda _m, _i, out: seen["attention"].append(out.detach())),
        model.input_proj.register_forward_hook(lambda _m, _i, out: seen["projected"].extend(m.detach() for m in out)),
        *(
            m.register_forward_hook(lambda _m, _i, out: seen["layers"].append(out.detach()))
            for m in model.encoder.layers
        ),
    ]
    outputs = model(case.images, case.sizes)
    for hook in hooks:
        hook.remove()
    losses = case.losses(outputs)
    losses.total.backward()
    num_layers = len(model.decoder.layers)
    gradients = {
        released_names(name, num_layers)[0]: p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    with torch.no_grad():
        encoded = model.encode(case.images, case.sizes)
    return Result(case, outputs, losses, gradients, encoded, seen["layers"], seen["attention"][0], seen["projected"])


def worst(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max()) if a.numel() else 0.0


def test_logits_and_boxes_of_every_layer(result: Result) -> None:
    for key, got in (("logits", result.logits), ("boxes", result.boxes)):
        for layer, allowed in enumerate(result.case.noise[f"{key}_per_layer"]):
            assert worst(got[layer], result.case.reference[key][layer]) <= FACTOR * allowed, (key, layer)


def test_losses(result: Result) -> None:
    reference, last = result.case.reference, len(result.outputs) - 1
    parts = [
        ("loss_ce", result.losses["loss_class"], 2),
        ("loss_bbox", result.losses["loss_l1"], 5),
        ("loss_giou", result.losses["loss_giou"], 2),
    ]
    names = {
        (name, layer): name if layer == last else f"{name}_{layer}" for name, _, _ in parts for layer in range(last + 1)
    }
    assert set(names.values()) == set(reference["loss_weighted"])
    for name, part, weight in parts:
        for layer, value in enumerate(part.tolist()):
            assert value == pytest.approx(reference["loss_weighted"][names[name, layer]], rel=1e-5)
            assert value / weight == pytest.approx(reference["loss"][names[name, layer]], rel=1e-5)
    assert result.losses.total.item() == pytest.approx(result.case.meta["loss_total"], rel=1e-5)


def test_matched_pairs_are_identical(result: Result) -> None:
    case = result.case
    m = deformable_matcher()(result.logits, result.boxes, case.targets, case.sizes)
    for layer, images in enumerate(case.reference["indices"]):
        for n, (queries, targets) in enumerate(images):
            here = (m.stage == layer) & (m.image == n)
            assert m.proposal[here].tolist() == queries.tolist(), (layer, n)
            assert m.target[here].tolist() == targets.tolist(), (layer, n)


def test_matching_costs(result: Result) -> None:
    # The costs of the reference's own outputs, so that their rounding alone remains.
    reference, case = result.case.reference, result.case
    cost = deformable_matcher().cost(reference["logits"], reference["boxes"], case.targets, case.sizes)
    for layer, images in enumerate(reference["cost"]):
        for n, wanted in enumerate(images):
            torch.testing.assert_close(cost[layer, n, :, : wanted.shape[1]], wanted, rtol=1e-5, atol=2e-5)


def test_gradient_norm_of_every_parameter(result: Result) -> None:
    reference = result.case.reference
    trained = {name for name, norm in reference["grad_norm"].items() if norm is not None}
    assert result.gradients.keys() == trained
    floor = 1e-6 * reference["grad_total_norm"]
    allowed = FACTOR * result.case.noise["grad_norm_rel"][0]
    for name in trained:
        wanted = reference["grad_norm"][name]
        got = result.gradients[name].double().norm().item()
        # In the backbone ReLUs flip at zero: see the test below. Measured: up to 9e-4 by processor.
        allowed_here = max(allowed, 2e-3) if name.startswith("backbone") else allowed
        assert abs(got - wanted) <= allowed_here * max(wanted, floor), name
    total = math.sqrt(sum(g.double().pow(2).sum().item() for g in result.gradients.values()))
    assert total == pytest.approx(reference["grad_total_norm"], rel=FACTOR * result.case.noise["grad_total_rel"])


def test_gradients_themselves(result: Result) -> None:
    # As vectors, |difference| / |reference|. In the backbone a ReLU that flips at zero moves one element by more: with
    # the reference's own two threads 4e-6 is left of the 2.5e-3 that one thread differs by.
    for key, wanted in result.case.reference["gradients"].items():
        name, _, corner = key.partition("[")
        got = result.gradients[name][:4, :8] if corner else result.gradients[name]
        allowed = 1e-2 if name.startswith("backbone") else FACTOR * result.case.noise["grad_norm_rel"][0]
        scale = max(wanted.norm().item(), 1e-6 * result.case.reference["grad_total_norm"])
        assert (got - wanted).norm() <= allowed * scale, key


def test_levels_masks_positions_and_reference_points(result: Result) -> None:
    reference, case = result.case.reference, result.case
    assert [list(shape) for shape in result.encoded.shapes_hw] == [list(s) for s in reference["spatial_shapes"]]
    assert torch.equal(result.encoded.valid_ratios_wh, reference["valid_ratios_wh"])
    image_mask = padding_mask(case.sizes, case.images.shape[2], case.images.shape[3])
    for level, wanted in enumerate(reference["padding_mask"]):
        mask = at_resolution(image_mask, *result.encoded.shapes_hw[level])
        assert torch.equal(mask, wanted)
        valid = ~mask[:, None]  # the others are sines of millions, and nothing reads them
        torch.testing.assert_close(
            case.model.position_encoding(mask) * valid, reference["pos"][level] * valid, rtol=0, atol=2e-6
        )
    points = cell_reference_points(result.encoded.shapes_hw, result.encoded.valid_ratios_wh)
    torch.testing.assert_close(points[:, ::7], reference["encoder_reference_points_corner"], rtol=1e-6, atol=1e-6)
    queries = case.model.query_reference_points().detach().expand(2, -1, -1)
    torch.testing.assert_close(queries, reference["reference_points"], rtol=0, atol=1e-6)


def test_projections_encoder_layers_and_memory(result: Result) -> None:
    reference = result.case.reference
    allowed = FACTOR * result.case.noise["memory_first8"]
    for got, wanted in zip(result.projected, reference["src_first8"], strict=True):
        assert worst(got[:, :8], wanted) <= allowed
    assert worst(result.first_attention[..., :8], reference["deformable_attention_encoder0_first8"]) <= allowed
    for got, wanted in zip(result.encoder_layers, reference["encoder_layers_first8"], strict=True):
        assert worst(got[..., :8], wanted) <= allowed
    assert worst(result.encoded.features[..., :8], reference["memory_first8"]) <= allowed


def test_detections(result: Result) -> None:
    case, noise = result.case, result.case.noise
    found = case.model.detections(result.outputs, case.sizes, case.reference["out_sizes"])
    for got, wanted in zip(found, case.reference["detections"], strict=True):
        assert torch.equal(got.labels, wanted["labels"])
        assert worst(got.scores, wanted["scores"]) <= FACTOR * noise["detection_scores"]
        assert worst(got.boxes_xyxy_abs, wanted["boxes"]) <= FACTOR * noise["detection_boxes_pixels"]


@pytest.mark.slow
def test_six_optimizer_steps() -> None:
    case = load()
    model = case.model.train()
    wanted = json.loads(shared(f"golden/detr/optim_{CASE}.json").read_text())
    rates = {name: group["lr"] for group in case.meta["optimizer"]["groups"] for name in group["names"]}
    num_layers = len(model.decoder.layers)
    named = {released_names(n, num_layers)[0]: p for n, p in model.named_parameters() if p.requires_grad}
    assert named.keys() == rates.keys()
    groups = [
        {"params": [p for n, p in named.items() if rates[n] == rate], "lr": rate}
        for rate in sorted(set(rates.values()))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=case.meta["optimizer"]["weight_decay"])
    # Adam's first steps follow the sign of gradients that are mere rounding. On a processor without AVX-512, where the
    # first loss and norm agree to 1e-6, the second loss was off by 1.5e-4, the later ones by up to 4e-2.
    is_as_reference = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    drift = [0.0] * 6 if is_as_reference else [0.0, 1e-3, 0.1, 0.1, 0.1, 0.1]
    for i, (step, noise) in enumerate(zip(wanted["steps"], wanted["self_noise_rel_per_step"], strict=True)):
        losses = case.losses(model(case.images, case.sizes))
        allowed = max(FACTOR * max(noise, 1e-6), drift[i])
        assert losses.total.item() == pytest.approx(step["loss_total"], rel=allowed), i
        optimizer.zero_grad()
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(named.values()), case.meta["optimizer"]["clip_max_norm"])
        # An edge of a predicted box that crosses the target's, or a sampled point that crosses into another cell, makes
        # the gradient jump. Drift takes such an edge across in the last step: 97 or 118 at the same loss.
        if step is not wanted["steps"][-1]:
            allowed = max(FACTOR * max(noise, 3e-3), 3 * drift[i], 0.1 * (drift[i] > 0))
            assert norm.item() == pytest.approx(step["grad_norm_before_clip"], rel=allowed), i
        optimizer.step()
    for name, sums in wanted["after_sum_and_abssum"].items():
        if name in named:
            tensor = named[name].detach().double()
            moved = len(wanted["steps"]) * rates[name] * math.sqrt(tensor.numel())  # with random signs
            moved *= 1 if is_as_reference else 10
            assert [tensor.sum().item(), tensor.abs().sum().item()] == pytest.approx(sums, rel=0, abs=moved), name

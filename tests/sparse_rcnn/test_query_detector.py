"""DETR and Deformable DETR as detectors among others: what the rest of the library does with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sparse_rcnn.architecture import build
from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import Sample
from sparse_rcnn.dataset_detection import detect
from sparse_rcnn.engine import Learner, counts_of_step, train_steps, training_step
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.interrupt import StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.query_detector import QueryDetector
from sparse_rcnn.rng import get_rng_state, seed_everything, set_rng_state
from sparse_rcnn.speed import frames_per_second
from sparse_rcnn.step_log import StepLog
from sparse_rcnn.structures import Batch, Targets
from sparse_rcnn.transfer import Transfer, apply_transfer, plan_transfer
from sparse_rcnn.weights import save_detector
from tests.support.engine import WORLD, Recorder
from tests.support.pictures import picture
from tests.support.query_detectors import KINDS, SETTINGS, Kind, batch_of

NUM_QUERIES, NUM_LAYERS = 6, 2


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def model(kind: Kind) -> QueryDetector:
    return kind.detector(kind.card("cat", "dog"))


def test_weights_file_and_back(kind: Kind, model: QueryDetector, tmp_path: Path) -> None:
    assert model.card is not None
    save_detector(model, model.card, tmp_path / "m.safetensors")
    loaded = type(model).from_pretrained(tmp_path / "m.safetensors")
    assert loaded.card == model.card
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    image = picture(40, 60)
    assert torch.equal(loaded.predict(image).boxes_xyxy_abs, model.predict(image).boxes_xyxy_abs)
    other = next(other for other in KINDS.values() if other is not kind)
    with pytest.raises(CheckpointError, match=f"describes a {type(model).__name__}, not a"):
        type(other.detector(other.card("cat"))).from_pretrained(tmp_path / "m.safetensors")


def test_detections_of_an_image_do_not_depend_on_its_company(model: QueryDetector) -> None:
    # Their sizes are within one multiple of 32: padded to that as others are, they would share a batch.
    images = [picture(40, 60), picture(42, 60), picture(40, 60), picture(60, 40)]
    together = model.predict(images, batch_size=8)
    for image, found in zip(images, together, strict=True):
        alone = model.predict(image)
        torch.testing.assert_close(alone.boxes_xyxy_abs, found.boxes_xyxy_abs, rtol=0, atol=1e-3)
        torch.testing.assert_close(alone.scores, found.scores, rtol=0, atol=1e-5)
        assert alone.scores.tolist() == sorted(alone.scores.tolist(), reverse=True)


def test_a_batch_is_padded_to_its_largest_image_alone(model: QueryDetector) -> None:
    samples = [
        Sample(picture(*size), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image_id=i, original_size_hw=size)
        for i, size in enumerate([(64, 50), (41, 70)])
    ]
    assert collate(samples, model.size_divisor).images.shape == (2, 3, 64, 70)


def test_stages_of_an_image_query_by_query(model: QueryDetector) -> None:
    found = model.predict_stages(picture(40, 60))
    assert found.boxes_xyxy_abs.shape == (NUM_LAYERS, NUM_QUERIES, 4)
    assert found.scores.shape == found.labels.shape == (NUM_LAYERS, NUM_QUERIES)
    assert found.proposals_xyxy_abs is None
    assert found.responses is None
    best = model.predict(picture(40, 60))
    assert found.scores[-1].max() == best.scores[0]
    assert torch.equal(found.boxes_xyxy_abs[-1, found.scores[-1].argmax()], best.boxes_xyxy_abs[0])


def test_every_decoder_layer_is_a_stage_on_a_data_set(model: QueryDetector) -> None:
    batches = [batch_of([1, 2], 2), batch_of([0], 2, size_hw=(48, 64), seed=1)]
    tables = detect(model, batches, [1, 3], WORLD, "fp32")
    assert tables is not None
    assert len(tables) == NUM_LAYERS
    (last,) = detect(model, batches, [1, 3], WORLD, "fp32", last_stage_only=True) or []
    assert last.scores.tolist() == tables[-1].scores.tolist()
    assert set(last.category_ids.tolist()) <= {1, 3}
    assert len(last) <= 3 * model.max_detections


@pytest.mark.parametrize(("name", "field"), [("logits", "logits"), ("boxes", "boxes_cxcywh_norm")])
def test_numbers_that_are_not_finite_are_an_error(model: QueryDetector, name: str, field: str) -> None:
    batch = batch_of([1, 1])
    with torch.no_grad():
        output = model(batch.images, batch.image_sizes_hw)
        getattr(output[-1], field)[0, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=rf"^detections: NaN or infinity in {name}"):
        model.detections(output, batch.image_sizes_hw, batch.original_sizes_hw)


def test_speed_and_bf16(model: QueryDetector) -> None:
    for precision in ("fp32", "bf16"):
        assert frames_per_second(model, batch_of([1]), precision, num_repeats=1) > 0


def test_cost_from_shapes_alone(kind: Kind) -> None:
    with torch.device("meta"):
        model = build(kind.architecture())
        with FlopCounterMode(display=False) as counter:
            model.train().forward_shapes(torch.empty(1, 3, 64, 80), torch.empty(1, 2, dtype=torch.int64))
    assert counter.get_total_flops() > 1e6


# --- training ------------------------------------------------------------------------------------------------


def step(learner: Learner, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    losses = training_step(learner, batches, tuple(counts_of_step(learner.criterion, batches)))
    gradients = {name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None}
    return losses, gradients


def cut(batch: Batch, num_parts: int) -> list[Batch]:
    parts = []
    for part in torch.arange(len(batch)).chunk(num_parts):
        counts = tuple(batch.targets.num_per_image[i] for i in part.tolist())
        targets = Targets(batch.targets.boxes_xyxy_abs[part], batch.targets.labels[part], counts)
        sizes = batch.image_sizes_hw[part]
        parts.append(Batch(batch.images[part], sizes, sizes, tuple(part.tolist()), targets))
    return parts


@pytest.mark.parametrize("num_parts", [2, 4])
def test_micro_batches_make_the_step_of_the_whole_batch(kind: Kind, num_parts: int) -> None:
    learner = kind.learner()
    batch = batch_of([3, 0, 1, 9])  # one without boxes, one with more than queries
    wanted, wanted_gradients = step(learner, [batch])
    learner.model.zero_grad()
    got, gradients = step(learner, cut(batch, num_parts))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == {name for name, p in learner.model.named_parameters() if p.requires_grad}
    scale = torch.stack([g.norm() for g in wanted_gradients.values()]).norm()
    for name, gradient in wanted_gradients.items():
        # Measured: up to 2.01e-5, on a processor without AVX-512; parts by their own counts would be off by a tenth.
        assert (gradients[name] - gradient).norm() <= 1e-4 * scale, name


def trained(learner: Learner, batches: Iterator[Batch], steps: range) -> list[float]:
    recorder = Recorder()
    log = StepLog(WORLD, [recorder], SETTINGS.num_steps, SETTINGS.num_steps_per_epoch, 1, learner.criterion)
    train_steps(learner, batches, steps, log, StopRequest())
    return recorder.metric("train/loss/total")


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(kind: Kind, tmp_path: Path) -> None:
    batches = [batch_of([2, 0, 7], seed=seed) for seed in range(SETTINGS.num_steps)]
    card = kind.card("a", "b", "c", "d", dropout=0.1)
    seed_everything(3)
    whole = kind.learner(dropout=0.1)
    seed_everything(4)
    wanted = trained(whole, iter(batches), range(4))

    first = kind.learner(dropout=0.1)
    seed_everything(4)
    begun = trained(first, iter(batches[:2]), range(2))
    folder = CheckpointFolder(tmp_path)
    state = TrainingState(2, "id", 1.0, first.optimizer.state_dict(), None, [get_rng_state()])
    folder.save(first.model, card, state)

    second = kind.learner(dropout=0.1, seed=9)
    loaded = folder.load(second.model, "id", 2)
    second.optimizer.load_state_dict(loaded.optimizer)
    set_rng_state(loaded.rng[0])
    assert begun + trained(second, iter(batches[2:]), range(2, 4)) == wanted
    after = whole.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in second.model.state_dict().items())


@pytest.mark.parametrize(("counts", "num_classes"), [([0, 0], 4), ([9, 1], 1), ([2, 0], 1)])
def test_no_boxes_one_class_and_more_objects_than_queries(kind: Kind, counts: list[int], num_classes: int) -> None:
    learner = kind.learner(num_classes=num_classes)
    batch = batch_of(counts, num_classes)
    totals = trained(learner, cycle([batch]), range(4))
    assert totals[-1] < totals[0]
    tables = detect(learner.model, [batch], list(range(num_classes)), WORLD, "fp32")
    assert tables is not None
    assert len(tables) == NUM_LAYERS


@pytest.mark.parametrize("counts", [[1, 2], [0, 0]])
def test_weights_that_are_not_finite_end_the_training_in_one_line(kind: Kind, counts: list[int]) -> None:
    learner = kind.learner()
    with torch.no_grad():
        next(iter(learner.model.class_embed.parameters())).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"^[^\n]* at step 0 with lr 0\.001: [^\n]*$"):
        trained(learner, cycle([batch_of(counts)]), range(2))


def test_memory_options_change_no_number(kind: Kind) -> None:
    results = []
    for changed in (False, True):
        learner = kind.learner()
        learner.model.activation_checkpointing = changed
        learner.settings = replace(SETTINGS, channels_last=changed)
        results.append(step(learner, [batch_of([2, 1])]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)


# --- starting from another's weights ---------------------------------------------------------------------------


def taken(model: QueryDetector, given: QueryDetector) -> tuple[Transfer, dict[str, Tensor]]:
    """What a model takes of another, and its tensors from before."""
    assert model.card is not None
    assert given.card is not None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.state_dict().items()}
    plan = plan_transfer(model, model.card.architecture, model.card.class_names, shapes, given.card, "w")
    apply_transfer(model, plan, given.state_dict(), "w")
    return plan, before


def from_each_other(
    kind: Kind, names: tuple[str, ...], names_in_file: tuple[str, ...], other: Kind | None = None, **changes: Any
) -> tuple[Transfer, QueryDetector, QueryDetector, dict[str, Tensor]]:
    given_kind = other or kind
    given = given_kind.detector(given_kind.card(*names_in_file), seed=1)
    model = kind.detector(kind.card(*names, **changes), seed=2)
    plan, before = taken(model, given)
    return plan, model, given, before


def test_the_same_classes_are_taken_whole(kind: Kind) -> None:
    plan, model, given, _ = from_each_other(kind, ("cat", "dog"), ("cat", "dog"))
    assert plan.is_complete
    assert all(torch.equal(tensor, given.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("names", [("dog", "cow", "cat"), ("cow", "dog"), ("cow", "pig")])
def test_rows_of_classes_by_name_and_no_object_always(kind: Kind, names: tuple[str, ...]) -> None:
    in_file = ("cat", "dog", "hen")
    plan, model, given, before = from_each_other(kind, names, in_file)
    layers = model.class_tensors()
    assert len(layers) == 2
    for layer, layout in layers.items():
        for label, name in enumerate(names):
            wanted = given.state_dict()[layer][in_file.index(name)] if name in in_file else before[layer][label]
            assert torch.equal(model.state_dict()[layer][label], wanted), name
        assert len(model.state_dict()[layer]) == len(names) + layout.num_after
        if layout.num_after:
            assert torch.equal(model.state_dict()[layer][-1], given.state_dict()[layer][-1])
    assert set(plan.whole) == set(model.state_dict()) - layers.keys()


def test_as_many_queries_as_both_have(kind: Kind) -> None:
    plan, model, given, before = from_each_other(kind, ("cat",), ("cat",), num_queries=9)
    queries = model.state_dict()["query_embed.weight"]
    assert torch.equal(queries[:6], given.state_dict()["query_embed.weight"])
    assert torch.equal(queries[6:], before["query_embed.weight"][6:])
    assert "query_embed.weight: the first 6 of 9" in plan.describe()


def test_classes_that_are_not_known_yet(kind: Kind) -> None:
    with torch.device("meta"):
        model = build(kind.card("only").architecture)
    given = kind.detector(kind.card("a", "b", "c"))
    assert given.card is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in given.state_dict().items()}
    plan = plan_transfer(model, kind.card("only").architecture, None, shapes, given.card, "w")
    assert plan.share == 1


def test_class_rows_of_another_detector_are_drawn_anew() -> None:
    # Both have a class_embed, of 4 + 1 rows and of 4 or, where the number fits by chance, 5.
    small = {"hidden_dim": 32, "num_heads": 4}
    for names in (("a", "b", "c", "d"), ("a", "b", "c", "d", "e")):
        given = KINDS["detr"].detector(KINDS["detr"].card("a", "b", "c", "d", **small), seed=1)
        model = KINDS["deformable_detr"].detector(KINDS["deformable_detr"].card(*names), seed=2)
        plan, before = taken(model, given)
        for layer in model.class_tensors():
            assert torch.equal(model.state_dict()[layer], before[layer])
            assert plan.drawn[layer] == "its rows in the file are of another detector's classes"


def test_a_file_whose_names_are_not_those_of_its_layers(kind: Kind) -> None:
    given, model = kind.detector(kind.card("a", "b", "c")), kind.detector(kind.card("a"))
    assert given.card is not None
    given.card = ModelCard(given.card.architecture, given.card.categories[:2], 64, 96)
    with pytest.raises(CheckpointError, match=r"^w names 2 classes, its class_embed\.\S+ has [34]"):
        taken(model, given)

"""The training step and its loop: what it computes, when it logs, saves and evaluates, what it waits for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.config.build import build_datasets, with_num_classes
from experiments.config.validation import validate
from experiments.run.training import build_training
from sparse_rcnn.distributed import World
from sparse_rcnn.ema import MovingAverage
from sparse_rcnn.engine import Learner, LoopSettings, normalizer, train_steps, training_step
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.rng import seed_everything
from sparse_rcnn.runlog import Writer
from sparse_rcnn.step_log import PARTS, StepLog
from sparse_rcnn.structures import Batch, Targets
from tests.support import training

WORLD = World(0, 1, torch.device("cpu"))
SETTINGS = LoopSettings(
    num_steps=6,
    num_steps_per_epoch=4,
    num_micro_batches=1,
    clip_norm=1.0,
    precision="fp32",
    channels_last=False,
    log_every=1,
    eval_every=None,
    checkpoint_every=None,
)


class Recorder(Writer):
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, float, dict[str, float]]] = []

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        self.events.append((event, step, epoch, dict(metrics)))

    def metric(self, name: str) -> list[float]:
        return [metrics[name] for _, _, _, metrics in self.events]


@dataclass
class Setup:
    """A tiny detector with all that trains it, the same in every test."""

    learner: Learner
    batches: list[Batch]

    @property
    def model(self) -> nn.Module:
        return self.learner.model

    def step(self, settings: LoopSettings = SETTINGS, num_boxes: float | None = None) -> Tensor:
        """Losses of one step; the gradients stay on the model."""
        count = normalizer(sum(b.targets.num_boxes for b in self.batches), 1) if num_boxes is None else num_boxes
        self.learner.settings = settings
        return training_step(self.learner, self.batches, count)

    def train(
        self,
        settings: LoopSettings = SETTINGS,
        batches: Iterator[Batch] | None = None,
        steps: range | None = None,
        stop: StopRequest | None = None,
    ) -> Recorder:
        recorder, self.learner.settings = Recorder(), settings
        log = StepLog(WORLD, [recorder], settings.num_steps, settings.num_steps_per_epoch, settings.log_every)
        chosen = range(settings.num_steps) if steps is None else steps
        train_steps(self.learner, batches or cycle(self.batches), chosen, log, stop or StopRequest())
        return recorder

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}


def setup(*overrides: str, num_micro_batches: int = 1, num_steps: int = 1) -> Setup:
    """The detector and the batches of its first steps, the global batch cut into micro-batches."""
    arguments = training.overrides(training.data_root().parent / "unused", *overrides)
    config = validate(training.composed([*arguments, f"train.num_micro_batches={num_micro_batches}"]))
    train_set, val_set = build_datasets(config)
    built = build_training(with_num_classes(config, train_set.num_classes), train_set, val_set, WORLD)
    built.model.train()
    batches = built.batches.from_step(0)
    return Setup(built.learner, [next(batches) for _ in range(num_steps * num_micro_batches)])


def relative_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Of all gradients: the norm of the difference over the norm."""
    assert a.keys() == b.keys()
    difference = math.sqrt(sum(float((a[n] - b[n]).double().square().sum()) for n in a))
    return difference / math.sqrt(sum(float(a[n].double().square().sum()) for n in a))


# --- the step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_micro_batches", [2, 4])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(num_micro_batches: int) -> None:
    whole, parts = (
        setup("train.batch_size=8"),
        setup("train.batch_size=8", num_micro_batches=num_micro_batches),
    )
    assert len(parts.batches) == num_micro_batches
    ids = [i for batch in parts.batches for i in batch.image_ids]
    assert ids == list(whole.batches[0].image_ids)
    assert 0 in whole.batches[0].targets.num_per_image  # an image without boxes takes part

    torch.testing.assert_close(parts.step(), whole.step(), rtol=1e-5, atol=1e-6)
    assert relative_difference(whole.gradients(), parts.gradients()) < 1e-5


def test_each_micro_batch_by_its_own_boxes_would_be_wrong() -> None:
    """The test above can fail: the number of boxes of the whole batch is what both halves are divided by."""
    whole, parts = setup("train.batch_size=8"), setup("train.batch_size=8", num_micro_batches=2)
    whole.step()
    for batch in parts.batches:
        replace(parts, batches=[batch]).step()
    assert relative_difference(whole.gradients(), parts.gradients()) > 0.1


def test_the_normalizer_averages_over_processes_and_is_at_least_one() -> None:
    assert normalizer(12, 1) == 12
    assert normalizer(12, 4) == 3
    assert normalizer(3, 4) == 1
    assert normalizer(0, 1) == 1


def test_a_batch_without_boxes_trains_the_classes_and_reaches_every_parameter() -> None:
    s = setup()
    empty = Targets.from_lists([torch.zeros(0, 4)] * 4, [torch.zeros(0, dtype=torch.int64)] * 4)
    s.batches = [replace(s.batches[0], targets=empty)]
    losses = s.step()
    assert (losses[0] > 0).all()
    assert (losses[1:] == 0).all()
    # DDP waits for a gradient of every parameter, so zero is fine and none at all is not.
    assert set(s.gradients()) == {n for n, p in s.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("change", ["channels_last", "activation_checkpointing"])
def test_memory_options_change_no_number(change: str) -> None:
    plain, other = setup("dropout=0.1"), setup("dropout=0.1")
    settings = SETTINGS
    if change == "channels_last":
        other.model.to(memory_format=torch.channels_last)
        settings = replace(SETTINGS, channels_last=True)
    else:
        other.model.activation_checkpointing = True
    seed_everything(1)
    expected = plain.step()
    seed_everything(1)
    torch.testing.assert_close(other.step(settings), expected, rtol=1e-5, atol=1e-6)
    assert relative_difference(plain.gradients(), other.gradients()) < 1e-4  # measured: 2e-5


def test_bf16_computes_the_losses_in_float32() -> None:
    plain, half = setup(), setup()
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    forward = half.learner.criterion._class_loss

    def spy(logits: Tensor, *args: Any) -> Tensor:
        seen.append((logits.dtype, forward(logits, *args).dtype))
        return forward(logits, *args)

    half.learner.criterion._class_loss = spy
    dtypes: list[torch.dtype] = []
    half.model.stages[0].cls_tower.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    losses = half.step(replace(SETTINGS, precision="bf16"))
    assert dtypes == [torch.bfloat16]  # the model did run in half precision
    assert seen == [(torch.float32, torch.float32)]
    assert losses.dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in half.gradients().values())
    torch.testing.assert_close(losses.sum(), plain.step().sum(), rtol=0.05, atol=0.0)


def test_bf16_trains() -> None:
    s = setup(num_steps=2)
    totals = s.train(replace(SETTINGS, precision="bf16")).metric("train/loss/total")
    assert len(totals) == 6
    assert totals[-1] < totals[0]


# --- what the loop does around it ------------------------------------------------------------------------


def test_the_loop_logs_when_it_is_due() -> None:
    recorder = setup(num_steps=2).train(replace(SETTINGS, num_steps=7, log_every=3))
    assert [step for _, step, _, _ in recorder.events] == [3, 6, 7]  # the last one always
    assert [epoch for _, _, epoch, _ in recorder.events] == [0.75, 1.5, 1.75]


def test_checkpoints_and_evaluations_by_hand() -> None:
    settings = replace(SETTINGS, num_steps=7, checkpoint_every=3, eval_every=2)
    steps = [0]
    while steps[-1] < 7:
        steps.append(settings.next_checkpoint(steps[-1]))
    assert steps == [0, 2, 3, 4, 6, 7]  # an evaluation has a checkpoint before it, and may be stopped at once
    assert [step for step in range(8) if settings.is_evaluation_due(step)] == [2, 4, 6]
    assert not replace(settings, num_steps=6).is_evaluation_due(6), "the evaluation at the end is not the loop's"
    assert replace(settings, checkpoint_every=None, eval_every=None).next_checkpoint(3) == 7
    assert not replace(settings, eval_every=None).is_evaluation_due(2)


def test_a_loop_that_begins_later_counts_from_there() -> None:
    recorder = setup().train(steps=range(4, 6))
    assert [step for _, step, _, _ in recorder.events] == [5, 6]


def test_what_is_logged_is_what_happened() -> None:
    s = setup(num_steps=2, num_micro_batches=2)
    first = setup(num_steps=2, num_micro_batches=2)
    first.batches = first.batches[:2]
    losses = first.step()
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in first.gradients().values()))

    settings = replace(SETTINGS, num_steps=1, num_micro_batches=2)
    (event,) = s.train(settings).events
    metrics = event[3]
    assert event[:3] == ("train", 1, 0.25)
    for i, part in enumerate(PARTS):
        for stage in range(2):
            assert metrics[f"train/stage_{stage}/{part}"] == pytest.approx(float(losses[i, stage]), rel=1e-6)
        assert metrics[f"train/loss/{part}"] == pytest.approx(float(losses[i].sum()), rel=1e-6)
    assert metrics["train/loss/total"] == pytest.approx(float(losses.sum()), rel=1e-6)
    assert metrics["train/optim/grad_norm"] == pytest.approx(norm, rel=1e-5)  # before clipping
    assert metrics["train/optim/lr"] == pytest.approx(1e-5)  # warmup_factor x lr at step 0
    assert metrics["train/speed/images_per_second"] > 0
    assert 0 <= metrics["train/speed/data_fraction"] <= 1


def test_clipping_bounds_the_gradient_and_null_leaves_it() -> None:
    norms: dict[float | None, list[float]] = {}
    logged: dict[float | None, list[float]] = {}
    for clip_norm in (0.5, None):
        s = setup()
        found = norms[clip_norm] = []

        def note(optimizer: Any, args: Any, kwargs: Any, s: Setup = s, found: list[float] = found) -> None:
            found.append(float(torch.stack([g.norm() for g in s.gradients().values()]).norm()))

        s.learner.optimizer.register_step_pre_hook(note)
        recorder = s.train(replace(SETTINGS, num_steps=1, clip_norm=clip_norm))
        logged[clip_norm] = recorder.metric("train/optim/grad_norm")
    assert norms[0.5] == pytest.approx([0.5], rel=1e-4)
    assert norms[None] == pytest.approx(logged[None], rel=1e-5)
    assert logged[0.5] == pytest.approx(logged[None], rel=1e-6)
    assert logged[None][0] > 1


def test_the_moving_average_is_what_a_hand_computes() -> None:
    s = setup(num_steps=2)
    decay = 0.75
    ema = MovingAverage(s.model, decay)
    weights: list[dict[str, Tensor]] = []

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        weights.append({n: t.detach().clone().double() for n, t in s.model.state_dict().items()})

    s.learner.optimizer.register_step_post_hook(note)
    s.learner.ema = ema
    s.train(replace(SETTINGS, num_steps=4))
    expected = weights[0]
    for after in weights[1:]:
        expected = {n: decay * expected[n] + (1 - decay) * after[n] for n in expected}
    assert int(ema.n_averaged) == 4
    for name, tensor in ema.module.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-7)
    assert any((expected[n] - weights[-1][n]).abs().max() > 1e-4 for n in expected)


def test_our_moving_average_equals_pytorchs() -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    model.register_buffer("scale", torch.rand(3))
    ours = MovingAverage(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(4):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(torch.randn_like(tensor))
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert training.equal(ours.state_dict(), theirs.state_dict())


class _Reads(TorchDispatchMode):
    """Counts operations whose result the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal"):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_a_step_waits_for_the_device_once_per_matching(monkeypatch: pytest.MonkeyPatch, num_micro_batches: int) -> None:
    num_steps = 4
    s = setup(num_steps=2, num_micro_batches=num_micro_batches)
    ema = MovingAverage(s.model, 0.9)
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        real: Callable[..., Any] = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, counted)

    for name in ("item", "cpu", "tolist", "__bool__", "__float__", "__int__"):
        count(name)
    settings = replace(SETTINGS, num_steps=num_steps, num_micro_batches=num_micro_batches, log_every=2)
    with _Reads() as reads:
        s.learner.ema = ema
        s.train(settings)
    # The counter of the moving average is a number on the host, looked at once a step.
    assert counts.pop("__bool__") == num_steps
    assert reads.counts.pop("is_nonzero", 0) + reads.counts.pop("_local_scalar_dense", 0) <= num_steps
    assert counts == {"cpu": num_steps * num_micro_batches, "tolist": num_steps}
    assert not reads.counts


def test_a_stop_request_ends_at_the_boundary_and_names_it() -> None:
    s = setup()
    stop = StopRequest()

    def batches() -> Iterator[Batch]:
        for number, batch in enumerate(cycle(s.batches)):
            if number == 3:
                stop.signal_number = 15
            yield batch

    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step 3; .* run again to continue") as caught:
        s.train(batches=batches(), stop=stop)
    assert (caught.value.step, caught.value.signal_number) == (3, 15)


# --- numbers that are none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("poisoned", "message"),
    [
        ("stages.1.cls_tower.3.weight", r"stage 1: logits of image \d of the batch hold NaN"),
        ("stages.0.reg_tower.9.weight", r"stage 0: boxes_xyxy_abs of image \d of the batch hold NaN"),
        ("backbone.fpn.inner_blocks.0.0.weight", r"stage 0: logits"),
    ],
)
def test_a_poisoned_weight_is_blamed_on_its_stage_and_tensor(poisoned: str, message: str) -> None:
    s = setup()
    parameter = dict(s.model.named_parameters())[poisoned]

    def batches() -> Iterator[Batch]:
        for number, batch in enumerate(cycle(s.batches)):
            if number == 2:
                with torch.no_grad():
                    parameter.view(-1)[0] = math.nan
            yield batch

    with pytest.raises(NonFiniteError, match=message + r".* at step 2 with lr 0\.001") as caught:
        s.train(batches=batches())
    assert "lower the learning rate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_is_blamed_on_its_stage_and_part() -> None:
    """Without boxes nothing is matched: the class loss is the first to show it."""
    s = setup()
    empty = Targets.from_lists([torch.zeros(0, 4)] * 4, [torch.zeros(0, dtype=torch.int64)] * 4)
    s.batches = [replace(s.batches[0], targets=empty)]
    with torch.no_grad():
        dict(s.model.named_parameters())["stages.1.cls_tower.3.bias"][0] = math.inf
    with pytest.raises(NonFiniteError, match=r"stage 1: loss_class is (inf|nan) at step 0 with lr 1e-05"):
        s.train()


def test_a_gradient_that_is_not_finite_stops_before_the_steps_end() -> None:
    s = setup()
    calls = []

    def poison(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * math.inf if len(calls) == 2 else gradient

    s.model.proposals.features.register_hook(poison)
    s.train(steps=range(1))
    with pytest.raises(NonFiniteError, match=r"the gradient norm is (nan|inf) at step 1 with lr 0\.0005"):
        s.train(steps=range(1, 2))

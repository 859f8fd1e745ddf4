"""The training step and its loop: what it computes, when it logs, saves and evaluates, what it waits for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_rcnn.ema import MovingAverage
from sparse_rcnn.engine import counts_of_step
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.rng import seed_everything
from sparse_rcnn.structures import Batch, StageOutput, Targets
from tests.support.engine import SETTINGS, Setup, relative_difference, setup

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


def test_the_counts_of_a_step_are_those_of_its_micro_batches() -> None:
    s = setup(num_micro_batches=2)
    criterion = s.learner.criterion
    assert counts_of_step(criterion, s.batches) == [sum(b.targets.num_boxes for b in s.batches)]
    assert counts_of_step(criterion, []) == [0]  # the data could not be read; the other ranks hear of it


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
    dtypes: list[torch.dtype] = []
    half.model.stages[0].cls_tower.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    outputs: list[StageOutput] = []
    half.learner.criterion.register_forward_hook(lambda module, args, losses: outputs.extend(args[0]))
    losses = half.step(replace(SETTINGS, precision="bf16"))
    assert dtypes == [torch.bfloat16]  # the model did run in half precision
    exact = [StageOutput(output.logits.detach().float(), output.boxes_xyxy_abs.detach().float()) for output in outputs]
    (batch,) = half.batches
    in_float32 = half.learner.criterion(exact, batch.targets, batch.image_sizes_hw, (batch.targets.num_boxes,))
    assert torch.equal(losses, in_float32.stacked())  # to the last bit: no part of them was computed in half precision
    assert losses.dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in half.gradients().values())
    torch.testing.assert_close(losses.sum(), plain.step().sum(), rtol=0.05, atol=0.0)


def test_bf16_trains() -> None:
    s = setup(num_steps=2)
    totals = s.train(replace(SETTINGS, precision="bf16")).metric("train/loss/total")
    assert len(totals) == 6
    assert totals[-1] < totals[0]


# --- what the loop does around it ------------------------------------------------------------------------


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


class Reads(TorchDispatchMode):
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
    with Reads() as reads:
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

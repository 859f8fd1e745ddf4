"""What is logged of training steps, and when."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sparse_rcnn.losses import SetCriterion
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.step_log import StepLog, StepRecord
from tests.support.detectors import paper_criterion
from tests.support.engine import SETTINGS, WORLD, Recorder, setup


def test_the_loop_logs_when_it_is_due() -> None:
    recorder = setup(num_steps=2).train(replace(SETTINGS, num_steps=7, log_every=3))
    assert [step for _, step, _, _ in recorder.events] == [3, 6, 7]  # the last one always
    assert [epoch for _, _, epoch, _ in recorder.events] == [0.75, 1.5, 1.75]


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
    for i, part in enumerate(SetCriterion.part_names):
        for stage in range(2):
            assert metrics[f"train/stage_{stage}/{part}"] == pytest.approx(float(losses[i, stage]), rel=1e-6)
        assert metrics[f"train/loss/{part}"] == pytest.approx(float(losses[i].sum()), rel=1e-6)
    assert metrics["train/loss/total"] == pytest.approx(float(losses.sum()), rel=1e-6)
    assert metrics["train/optim/grad_norm"] == pytest.approx(norm, rel=1e-5)  # before clipping
    assert metrics["train/optim/lr"] == pytest.approx(1e-5)  # warmup_factor x lr at step 0
    assert metrics["train/speed/images_per_second"] > 0
    assert 0 <= metrics["train/speed/data_fraction"] <= 1


def record(step: int, losses: list[list[float]], grad_norm: float = 0.5, num_images: int = 4) -> StepRecord:
    return StepRecord(step, 1e-3, torch.tensor(losses), torch.tensor(grad_norm), num_images, data_seconds=0.0)


ONES = [[1.0, 1.0]] * 3  # of two stages


def log_of(num_steps: int = 10, log_every: int = 2) -> tuple[StepLog, Recorder]:
    recorder = Recorder()
    return StepLog(WORLD, [recorder], num_steps, 4, log_every, paper_criterion()), recorder


def test_a_step_is_written_when_the_next_one_asks_for_it() -> None:
    log, recorder = log_of(log_every=1)
    log.flush()  # before the first step
    log.keep(record(0, ONES))
    assert recorder.events == []
    log.flush()
    assert [event[:3] for event in recorder.events] == [("train", 1, 0.25)]
    log.flush()
    assert len(recorder.events) == 1


def test_losses_are_summed_over_stages_and_parts() -> None:
    log, recorder = log_of()
    log.keep(record(1, [[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]], grad_norm=0.75))
    log.flush()
    ((_, _, _, metrics),) = recorder.events
    speed = {key for key in metrics if key.startswith("train/speed/")}
    assert {key: value for key, value in metrics.items() if key not in speed} == {
        "train/loss/total": 63.0,
        "train/loss/loss_class": 3.0,
        "train/loss/loss_l1": 12.0,
        "train/loss/loss_giou": 48.0,
        "train/stage_0/loss_class": 1.0,
        "train/stage_1/loss_class": 2.0,
        "train/stage_0/loss_l1": 4.0,
        "train/stage_1/loss_l1": 8.0,
        "train/stage_0/loss_giou": 16.0,
        "train/stage_1/loss_giou": 32.0,
        "train/optim/lr": 1e-3,
        "train/optim/grad_norm": 0.75,
    }


def test_steps_between_two_lines_are_checked_too() -> None:
    log, recorder = log_of(log_every=5)
    log.keep(record(2, [[1.0, 1.0], [1.0, math.nan], [1.0, 1.0]]))
    with pytest.raises(NonFiniteError, match=r"^stage 1: loss_l1 is nan at step 2 with lr 0\.001: lower the learning"):
        log.flush()
    log.keep(record(3, ONES, grad_norm=math.inf))
    with pytest.raises(NonFiniteError, match=r"^the gradient norm is inf at step 3 with lr 0\.001: lower the learning"):
        log.flush()
    assert recorder.events == []

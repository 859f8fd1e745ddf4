"""What is logged of training steps, and when."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sparse_rcnn.step_log import PARTS
from tests.support.engine import SETTINGS, setup


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
    for i, part in enumerate(PARTS):
        for stage in range(2):
            assert metrics[f"train/stage_{stage}/{part}"] == pytest.approx(float(losses[i, stage]), rel=1e-6)
        assert metrics[f"train/loss/{part}"] == pytest.approx(float(losses[i].sum()), rel=1e-6)
    assert metrics["train/loss/total"] == pytest.approx(float(losses.sum()), rel=1e-6)
    assert metrics["train/optim/grad_norm"] == pytest.approx(norm, rel=1e-5)  # before clipping
    assert metrics["train/optim/lr"] == pytest.approx(1e-5)  # warmup_factor x lr at step 0
    assert metrics["train/speed/images_per_second"] > 0
    assert 0 <= metrics["train/speed/data_fraction"] <= 1

"""Frames per second: what is timed, and how often."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn import speed
from sparse_rcnn.structures import Batch, Targets
from tests.support.detectors import small_detector


def batch_of(num_images: int) -> Batch:
    sizes = torch.tensor([[64, 64]] * num_images)
    images = torch.zeros(num_images, 3, 64, 64, dtype=torch.uint8)
    no_targets = Targets.from_lists([torch.zeros(0, 4)] * num_images, [torch.zeros(0, dtype=torch.int64)] * num_images)
    return Batch(images, sizes, sizes, tuple(range(num_images)), no_targets)


def test_warm_passes_of_one_image_are_timed_and_the_model_keeps_its_mode(monkeypatch):
    model = small_detector().train()
    calls, clock = [], iter(range(1000))
    model.register_forward_hook(lambda *_: calls.append(model.training))
    monkeypatch.setattr(speed, "perf_counter", lambda: next(clock) / 4)
    # Between the two readings of a pass the clock moves by a quarter of a second.
    assert speed.frames_per_second(model, batch_of(1), "fp32", num_repeats=3, max_seconds=1e9) == 4.0
    assert calls == [False] * (speed.NUM_WARM_UP + 3)
    assert model.training


def test_slow_models_are_timed_once_at_least(monkeypatch):
    model, calls, clock = small_detector(), [], iter(range(1000))
    model.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(speed, "perf_counter", lambda: float(next(clock)))
    assert speed.frames_per_second(model, batch_of(1), "fp32", max_seconds=0.5) == 1.0
    assert len(calls) == speed.NUM_WARM_UP + 1


def test_a_larger_batch_is_refused():
    with pytest.raises(ValueError, match="one image at a time, got a batch of 2"):
        speed.frames_per_second(small_detector(), batch_of(2), "fp32")

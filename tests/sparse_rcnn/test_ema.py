"""The moving average of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_rcnn.ema import MovingAverage
from tests.support import training
from tests.support.engine import SETTINGS, setup


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

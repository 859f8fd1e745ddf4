"""The interactions of tables 2 to 4 and 8, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.interaction import AttentionInteraction, FullyConnected
from tests.support import naive
from tests.support.stages import arrays, draw, randomized


def check_gradients(module: nn.Module, *inputs: Tensor | None) -> None:
    """Of the inputs and of the parameters, against finite differences."""
    leaves = [x.requires_grad_() for x in inputs if x is not None]
    names = list(arrays(module))

    def run(*values: Tensor) -> Tensor:
        given = iter(values[: len(leaves)])
        arguments = tuple(None if x is None else next(given) for x in inputs)
        named = dict(zip(names, values[len(leaves) :], strict=True))
        result: Tensor = torch.func.functional_call(module, named, arguments)
        return result

    assert torch.autograd.gradcheck(run, (*leaves, *module.parameters()))


def test_attention_interaction_equals_plain_loops() -> None:
    module = randomized(AttentionInteraction(hidden_dim=8, num_heads=2, dropout=0.0))
    features, roi = draw(2, 3, 8), draw(2, 3, 8, 2, 2, seed=2)
    got = module(features, roi)
    assert got.shape == (2, 3, 8)
    for n in range(2):
        for p in range(3):
            wanted = naive.attention_interaction(arrays(module), features[n, p].tolist(), roi[n, p].numpy(), 2)
            np.testing.assert_allclose(got[n, p].detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_attention_interaction_gradient() -> None:
    module = randomized(AttentionInteraction(hidden_dim=4, num_heads=2, dropout=0.0))
    check_gradients(module, draw(1, 2, 4), draw(1, 2, 4, 2, 2, seed=2))


def test_attention_interaction_reads_the_positions_as_a_set() -> None:
    module = randomized(AttentionInteraction(hidden_dim=8, num_heads=2, dropout=0.0))
    features, roi = draw(1, 2, 8), draw(1, 2, 8, 3, 3, seed=2)
    torch.testing.assert_close(module(features, roi), module(features, roi.flip(3).transpose(3, 4)))
    assert not torch.allclose(module(features, roi), module(features, roi.flip(1)))


@pytest.mark.parametrize("reused_dim", [0, 5])
@pytest.mark.parametrize("num_fc", [1, 2, 3])
def test_fully_connected_equals_plain_loops(num_fc: int, reused_dim: int) -> None:
    module = FullyConnected(hidden_dim=4, num_fc=num_fc, dim_fc=6, output_size=2, reused_dim=reused_dim)
    randomized(module)
    roi, features = draw(2, 3, 4, 2, 2, seed=2), draw(2, 3, reused_dim) if reused_dim else None
    got = module(features, roi)
    assert got.shape == (2, 3, 4)
    for n in range(2):
        for p in range(3):
            reused = None if features is None else features[n, p].tolist()
            wanted = naive.fully_connected(arrays(module), roi[n, p].numpy(), num_fc, reused)
            np.testing.assert_allclose(got[n, p].detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reused_dim", [0, 3])
def test_fully_connected_gradient(reused_dim: int) -> None:
    module = FullyConnected(hidden_dim=3, num_fc=2, dim_fc=4, output_size=2, reused_dim=reused_dim)
    randomized(module)
    check_gradients(module, draw(1, 2, reused_dim) if reused_dim else None, draw(1, 2, 3, 2, 2, seed=2))


def test_fully_connected_of_the_paper_is_that_of_faster_rcnn_with_c_at_the_end() -> None:
    with torch.device("meta"):
        module = FullyConnected(hidden_dim=256, num_fc=2, dim_fc=1024, output_size=7, reused_dim=256)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.dim() == 2}
    assert shapes == {
        "layers.0.weight": (1024, 12544),
        "layers.2.weight": (256, 1024),
        "join.weight": (256, 512),
    }

"""Values and arguments that the parts of other variants refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sparse_rcnn.box_init import CenterInit, RandomInit
from sparse_rcnn.interaction import AttentionInteraction, FullyConnected
from sparse_rcnn.positional_encoding import SineEncoding
from sparse_rcnn.reuse import Concatenation, NoReuse, SelfAttention
from sparse_rcnn.stage import NoFeedForward
from tests.support.stages import make_stage


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionInteraction(12, 8, 0.0), "hidden_dim 12 is not a multiple of num_heads 8"),
        (lambda: FullyConnected(16, 0, 8, 7, 0), r"num_fc, dim_fc and output_size .* got 0, 8, 7 and 0"),
        (lambda: FullyConnected(16, 2, 0, 7, 0), "got 2, 0, 7 and 0"),
        (lambda: FullyConnected(16, 2, 8, 0, 0), "got 2, 8, 0 and 0"),
        (lambda: FullyConnected(16, 2, 8, 7, -1), "reused_dim at least 0, got 2, 8, 7 and -1"),
        (lambda: make_stage(reused_dim=0), "reused_dim is 0, but SelfAttention hands over 16"),
        (lambda: make_stage(reuse=NoReuse()), "reused_dim is 16, but NoReuse hands over 0"),
        (lambda: make_stage(reuse=Concatenation(8)), "reused_dim is 16, but Concatenation hands over 8"),
        (
            lambda: make_stage(interaction=FullyConnected(16, 2, 8, 2, 0)),
            "interaction.reused_dim is 0, but the stage's is 16",
        ),
        (lambda: SelfAttention(12, 0, 0.0), "hidden_dim 12 is not a multiple of num_heads 0"),
        (lambda: AttentionInteraction(12, 0, 0.0), "hidden_dim 12 is not a multiple of num_heads 0"),
        (lambda: SineEncoding(8, math.nan), "temperature must be above 1, got nan"),
        (lambda: CenterInit(0), "size must be above 0 and at most 1, got 0"),
        (lambda: CenterInit(1.5), "got 1.5"),
        (lambda: CenterInit(math.nan), "got nan"),
        (lambda: RandomInit(1.5, 0.1, 0.05), r"mean must be within 0 and 1.* got 1.5, 0.1 and 0.05"),
        (lambda: RandomInit(0.5, -0.1, 0.05), "std at least 0.* got 0.5, -0.1 and 0.05"),
        (lambda: RandomInit(0.5, math.nan, 0.05), "got 0.5, nan and 0.05"),
        (lambda: RandomInit(0.5, 0.1, 0), "min_size above 0 and at most 1, got 0.5, 0.1 and 0"),
        (lambda: SineEncoding(6, 10000.0), "hidden_dim 6 is not a multiple of 4"),
        (lambda: SineEncoding(8, 1.0), "temperature must be above 1, got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_no_feed_forward_swallows_no_arguments() -> None:
    with pytest.raises(TypeError):
        NoFeedForward(hidden_dim=16)

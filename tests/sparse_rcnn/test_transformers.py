"""DETR and Deformable DETR against those of transformers, another implementation, with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparse_rcnn.detr.padding_mask import padding_mask
from tests.support.detectors import images_of, resnet
from tests.support.query_detectors import KINDS
from tests.support.transformers_oracle import theirs_of

SIZES = [(96, 130), (70, 101)]
SHAPES: dict[str, dict[str, Any]] = {
    "detr": {"hidden_dim": 32, "num_heads": 4},
    "deformable_detr": {"hidden_dim": 64, "num_heads": 4},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("num_layers", [2, 3])
def test_the_last_layer_of_a_padded_batch(name: str, num_layers: int) -> None:
    kind = KINDS[name]
    card = kind.card("a", "b", "c", num_layers=num_layers, bottom_up=resnet(18), **SHAPES[name])
    ours = kind.detector(card)
    theirs: Any = theirs_of(ours)
    images, sizes = images_of(SIZES)
    images = images[..., :96, :130]
    mask = ~padding_mask(sizes, 96, 130)
    with torch.no_grad():
        wanted = theirs(pixel_values=ours.normalize(images, sizes), pixel_mask=mask.long())
        got = ours(images, sizes)[-1]
    assert (wanted.logits[0] - wanted.logits[1]).abs().max() > 0.01, "random weights tell images apart"
    torch.testing.assert_close(
        got.logits, wanted.logits, rtol=0, atol=1e-5 * max(1.0, wanted.logits.abs().max().item())
    )
    torch.testing.assert_close(got.boxes_cxcywh_norm, wanted.pred_boxes, rtol=0, atol=1e-5)

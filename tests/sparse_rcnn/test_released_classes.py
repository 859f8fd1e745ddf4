"""The classes of released detectors, kept and spread."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.released_classes import keep_classes, spread_classes
from tests.support.deformable_detr import small_deformable_detr
from tests.support.detectors import images_of
from tests.support.detr import small_detr

SMALL = {"detr": small_detr, "deformable_detr": small_deformable_detr}


@pytest.mark.parametrize("name", SMALL)
def test_kept_classes_have_the_logits_they_had(name: str) -> None:
    large, small = (SMALL[name](num_classes=k).eval() for k in (9, 3))
    small.load_state_dict(keep_classes(large.state_dict(), large.class_tensors(), [1, 4, 8]))
    images, sizes = images_of([(64, 64)])
    rows = [1, 4, 8, 9] if name == "detr" else [1, 4, 8]
    torch.testing.assert_close(small(images, sizes)[-1].logits, large(images, sizes)[-1].logits[..., rows])


@pytest.mark.parametrize("name", SMALL)
def test_spread_classes_have_the_probabilities_they_had_and_the_others_none(name: str) -> None:
    large, small = (SMALL[name](num_classes=k).eval() for k in (9, 3))
    state = small.state_dict()
    spread = spread_classes(state, small.class_tensors(), [1, 4, 8], num_classes=9)
    large.load_state_dict(spread)
    images, sizes = images_of([(64, 64)])
    got = large(images, sizes)[-1].class_probabilities
    torch.testing.assert_close(got[..., [1, 4, 8]], small(images, sizes)[-1].class_probabilities)
    assert (got[..., [0, 2, 3, 5, 6, 7]] == 0).all()
    back = keep_classes(spread, small.class_tensors(), [1, 4, 8])
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("layout", [ClassRows(1, 0, 1, 4), ClassRows(num_groups=3), ClassRows(1, 1, 2, 2)])
def test_other_layouts_come_back(layout: ClassRows) -> None:
    state = {"w": torch.randn(layout.num_rows(3), 2), "b": torch.randn(layout.num_rows(3)), "other": torch.ones(1)}
    layouts = {"w": layout, "b": layout}
    spread = spread_classes(state, layouts, [4, 0, 2], num_classes=5)
    assert len(spread["w"]) == layout.num_rows(5)
    assert torch.equal(spread["w"][layout.of_class(4, 5)], state["w"][layout.of_class(0, 3)])
    assert (spread["b"][layout.of_class(1, 5)] < -1000).all()
    back = keep_classes(spread, layouts, [4, 0, 2])
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())

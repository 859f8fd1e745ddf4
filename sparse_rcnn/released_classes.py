"""The classes of released detectors that have an output for every category id, for ours and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.data.coco_categories import COCO_CATEGORIES

COCO_IDS = tuple(category_id for category_id, _ in COCO_CATEGORIES)
NUM_COCO_OUTPUTS = 91  # the ids from 0 to 90, of which 80 are categories

# Softmax and sigmoid give such a class exactly 0 in float32, and the number exists in float16.
_NEVER = -1e4


def keep_classes(
    state: Mapping[str, Tensor], layouts: Mapping[str, ClassRows], classes: Sequence[int]
) -> dict[str, Tensor]:
    """A state dict whose class k is class ``classes[k]`` of the given one; rows of no class stay.

    The logits that remain are the same; a softmax of them loses what the model gave to the other classes.

    Args:
        state: by our names.
        layouts: of its class layers.
    """
    kept = dict(state)
    for name, layout in layouts.items():
        before = layout.num_classes(len(state[name]))
        kept[name] = state[name][_sources(layout, classes, before)]
    return kept


def spread_classes(
    state: Mapping[str, Tensor], layouts: Mapping[str, ClassRows], classes: Sequence[int], num_classes: int
) -> dict[str, Tensor]:
    """The way back: class k becomes class ``classes[k]`` of ``num_classes``, and the others never occur."""
    spread = dict(state)
    for name, layout in layouts.items():
        filler = _NEVER if state[name].ndim == 1 else 0.0
        spread[name] = state[name].new_full((layout.num_rows(num_classes), *state[name].shape[1:]), filler)
        spread[name][_sources(layout, classes, num_classes)] = state[name]
    return spread


def _sources(layout: ClassRows, classes: Sequence[int], num_classes: int) -> Tensor:
    """For each row of a tensor of ``len(classes)`` classes, its row in one of ``num_classes``."""
    sources = torch.empty(layout.num_rows(len(classes)), dtype=torch.int64)
    sources[layout.of_none(len(classes))] = torch.tensor(layout.of_none(num_classes), dtype=torch.int64)
    for k, old in enumerate(classes):
        sources[layout.of_class(k, len(classes))] = torch.tensor(layout.of_class(old, num_classes))
    return sources

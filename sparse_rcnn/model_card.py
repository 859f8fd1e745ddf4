"""The description of a detector that goes beside its tensors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from sparse_rcnn.pixel_range import AUTO, PixelRange, checked_pixel_range


@dataclass(frozen=True)
class ModelCard:
    """The description of weights that goes beside the tensors.

    Args:
        architecture: the resolved ``model`` node, see ``sparse_rcnn.architecture``.
        categories: dictionaries with ``id`` (of the data set) and ``name``, in the order of the labels.
        short_side, max_long_side: pixels images are resized to before detection.
        pixel_range: of picture files of more than 8 bits (semantics.md#pixel-values).
    """

    architecture: dict[str, Any]
    categories: list[dict[str, Any]]
    short_side: int
    max_long_side: int
    pixel_range: PixelRange = AUTO

    def to_json(self) -> str:
        """The card for a weights file, without a ``pixel_range`` that says nothing: earlier readers know none."""
        fields = asdict(self)
        if self.pixel_range == AUTO:
            del fields["pixel_range"]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """The card as ``to_json`` writes it.

        Raises: ValueError, KeyError or TypeError for anything else.
        """
        card = cls(**json.loads(text))
        sizes = (card.short_side, card.max_long_side)
        if not isinstance(card.architecture, dict) or not all(type(size) is int for size in sizes):
            raise ValueError("the card does not describe a model")
        categories = [{"id": int(c["id"]), "name": str(c["name"])} for c in card.categories]
        return replace(card, categories=categories, pixel_range=checked_pixel_range(card.pixel_range))

    @property
    def class_names(self) -> list[str]:
        return [c["name"] for c in self.categories]

    @property
    def category_ids(self) -> list[int]:
        return [c["id"] for c in self.categories]

"""The names of the ranges that a picture's values can have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparse_rcnn.errors import UserError

PixelRange = str | tuple[float, float]
"""``auto``, a name of ``NAMED_RANGES``, or the two values that are black and white."""

AUTO = "auto"
NAMED_RANGES: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "uint12": (0, 4095),
    "uint16": (0, 65535),
    "float": (0, 1),
}
CHOICES = f"{', '.join(NAMED_RANGES)} or two numbers [LOW,HIGH]"


class PixelRangeWarning(UserWarning):
    """A picture that keeps next to nothing of its values at the range that it is taken to have."""


def checked_pixel_range(value: Any) -> PixelRange:
    """A ``pixel_range`` as it may stand in a configuration or a file.

    Raises:
        UserError: neither ``auto`` nor a name nor two finite numbers of which the second is larger.
    """
    if isinstance(value, str) and value in (AUTO, *NAMED_RANGES):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        low, high = value
        numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
        if numbers and math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise UserError(f"pixel_range must be {AUTO}, {CHOICES} with LOW below HIGH, got {value}")

"""Checks of the numbers that a two-stage detector is made with."""

from __future__ import annotations


def check_positive(**values: int) -> None:
    """Refuse a count below 1, by its name."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_fractions(**values: float) -> None:
    """Refuse a share, an IoU or a score outside of 0 and 1, by its name."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be within 0 and 1, got {value}")


def check_box_weights(box_weights: object) -> tuple[float, float, float, float]:
    """The four weights of box deltas (x, y, w, h).

    Raises:
        ValueError: not four positive numbers.
    """
    weights = tuple(box_weights) if isinstance(box_weights, (list, tuple)) else ()
    if len(weights) != 4 or not all(isinstance(w, (int, float)) and w > 0 for w in weights):
        raise ValueError(f"box_weights must be four positive numbers, got {box_weights}")
    x, y, w, h = (float(weight) for weight in weights)
    return x, y, w, h

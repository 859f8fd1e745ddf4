"""The learning rate as a function of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class WarmupMultiStep:
    """Linear warm-up, then a drop by ``gamma`` at each milestone (semantics.md#optimisation).

    Args:
        length: of the training, in ``unit``.
        unit: ``steps`` or ``epochs``.
        milestones: where the learning rate drops, as fractions of the length, ascending.
        gamma: factor of each drop.
        num_warmup_steps: steps until the full rate.
        warmup_factor: factor at step 0.
    """

    def __init__(
        self,
        length: int,
        unit: str,
        milestones: Sequence[float],
        gamma: float,
        num_warmup_steps: int,
        warmup_factor: float,
    ) -> None:
        if unit not in ("steps", "epochs"):
            raise ValueError(f"unit must be 'steps' or 'epochs', got {unit!r}")
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if sorted(milestones) != list(milestones) or any(not 0 < m <= 1 for m in milestones):
            raise ValueError(f"milestones must be ascending fractions of the length, got {list(milestones)}")
        if num_warmup_steps < 0:
            raise ValueError(f"num_warmup_steps must not be negative, got {num_warmup_steps}")
        if not 0 < warmup_factor <= 1:
            raise ValueError(f"warmup_factor must be above 0 and at most 1, got {warmup_factor}")
        self.length, self.unit, self.milestones, self.gamma = length, unit, list(milestones), gamma
        self.num_warmup_steps, self.warmup_factor = num_warmup_steps, warmup_factor

    def num_steps(self, num_steps_per_epoch: int) -> int:
        """Optimizer steps of the whole training."""
        return self.length * (num_steps_per_epoch if self.unit == "epochs" else 1)

    def factor(self, step: int, num_steps_per_epoch: int) -> float:
        """What the base learning rate is multiplied by at a step (counted from 0)."""
        num_steps = self.num_steps(num_steps_per_epoch)
        drops = bisect_right([round(m * num_steps) for m in self.milestones], step)
        alpha = min(1.0, step / self.num_warmup_steps) if self.num_warmup_steps else 1.0
        return (self.warmup_factor * (1 - alpha) + alpha) * self.gamma**drops

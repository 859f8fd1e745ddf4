"""The rows of class layers: which belong to a class, and which to no class at all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassRows:
    """The layout of a tensor whose first dimension goes over classes.

    It has ``num_groups`` equal groups of rows (one for each anchor of a cell, for instance). A group has
    ``num_before`` + K + ``num_after`` slots, those before and after the classes being of a background or of
    'no object', and a slot has ``rows_per_class`` rows.
    """

    num_before: int = 0
    num_after: int = 0
    num_groups: int = 1
    rows_per_class: int = 1

    def num_rows(self, num_classes: int) -> int:
        """Rows of the tensor of K classes."""
        return self.num_groups * (self.num_before + num_classes + self.num_after) * self.rows_per_class

    def num_classes(self, num_rows: int) -> int:
        """K of a tensor of so many rows."""
        return num_rows // (self.num_groups * self.rows_per_class) - self.num_before - self.num_after

    def of_class(self, label: int, num_classes: int) -> list[int]:
        """The rows of a class of K, in ascending order."""
        return self._of_slot(self.num_before + label, num_classes)

    def of_none(self, num_classes: int) -> list[int]:
        """The rows of a tensor of K classes that belong to none of them, slot by slot."""
        slots = [*range(self.num_before), *(self.num_before + num_classes + i for i in range(self.num_after))]
        return [row for slot in slots for row in self._of_slot(slot, num_classes)]

    def _of_slot(self, slot: int, num_classes: int) -> list[int]:
        num_slots = self.num_before + num_classes + self.num_after
        starts = [(group * num_slots + slot) * self.rows_per_class for group in range(self.num_groups)]
        return [start + i for start in starts for i in range(self.rows_per_class)]

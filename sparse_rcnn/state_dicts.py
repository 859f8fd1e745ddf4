"""What is wrong with a state dict, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """The first three tensors that are missing, surplus or of another shape and how many more; None if all fit."""
    problems = [f"{n} is missing" for n in wanted if n not in given]
    problems += [f"{n} is not part of the model" for n in given if n not in wanted]
    problems += [
        f"{n} has shape {tuple(given[n].shape)}, not {tuple(t.shape)}"
        for n, t in wanted.items()
        if n in given and given[n].shape != t.shape
    ]
    return first_three(problems, "; ") if problems else None


def first_three(items: Sequence[str], separator: str = ", ") -> str:
    """The first three of many texts and the number of the others."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return separator.join(items[:3]) + more

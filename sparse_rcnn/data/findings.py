"""Findings of the reading of a data set: faults, repairs, records left out, and notes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_rcnn.errors import DataError

ERROR, LEFT_OUT, REPAIRED, NOTE = "error", "left out", "repaired", "note"
LEVELS = (ERROR, LEFT_OUT, REPAIRED, NOTE)


class DataWarning(UserWarning):
    """Something of a data set was repaired or left out, or deserves a look; one line that names the file."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing found in a data set.

    Attributes:
        level: ``error`` (the data set cannot be used), ``left out``, ``repaired`` or ``note``.
        kind: a short name of the kind, such as ``boxes without area``.
        message: one line that names the file, how many there are and the first.
        items: ids or names of all.
    """

    level: str
    kind: str
    message: str
    items: tuple[Any, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "kind": self.kind,
            "count": len(self.items),
            "message": self.message,
            "items": list(self.items),
        }


class Findings:
    """The findings of one data set in their order.

    Args:
        source: the name of the annotation file, which begins every message.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._list: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._list)

    def __len__(self) -> int:
        return len(self._list)

    def of_level(self, level: str) -> list[Finding]:
        return [finding for finding in self._list if finding.level == level]

    def error(self, kind: str, first: str, items: Sequence[Any]) -> None:
        """A fault: ``first`` says what is wrong with the first item."""
        more = f" (and {len(items) - 1} more like it)" if len(items) > 1 else ""
        self._list.append(Finding(ERROR, kind, f"{self.source}: {first}{more}", tuple(items)))

    def add(self, level: str, kind: str, noun: str, words: str, items: Iterable[Any], named: str = "") -> None:
        """Anything else: how many, the noun and ``words``, as in ``3 boxes without area left out (ids: ...)``.

        Args:
            named: the kind of name that the items are; empty for names that speak for themselves.
        """
        listed = tuple(items)
        names = f"{named}: {shortened(listed)}" if named else shortened(listed)
        self._list.append(
            Finding(level, kind, f"{self.source}: {counted(len(listed), noun)} {words} ({names})", listed)
        )

    def say(self, level: str, kind: str, message: str, items: Iterable[Any] = ()) -> None:
        """A finding in words of its own, after the name of the file."""
        self.put(level, kind, f"{self.source}: {message}", items)

    def put(self, level: str, kind: str, message: str, items: Iterable[Any] = ()) -> None:
        """A finding in words of its own, which name another file."""
        self._list.append(Finding(level, kind, message, tuple(items)))

    def raise_errors(self) -> None:
        """End at the first fault.

        Raises:
            DataError: there is a fault; says how many others there are.
        """
        errors = self.of_level(ERROR)
        if errors:
            others = f" (and {counted(len(errors) - 1, 'other kind')} of fault)" if len(errors) > 1 else ""
            raise DataError(errors[0].message + others)

    def warn(self, begin: int = 0) -> None:
        """Issue what is no fault as a `DataWarning` each, from the finding at ``begin`` on."""
        for finding in self._list[begin:]:
            if finding.level != ERROR:
                warnings.warn(finding.message, DataWarning, stacklevel=3)


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where there are several."""
    if number == 1:
        return f"1 {noun}"
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith(("x", "s")) else "s")
    return f"{number} {plural}"


def shortened(values: Sequence[Any], num_shown: int = 5) -> str:
    """The first few of many, for a message."""
    more = f" and {len(values) - num_shown} more" if len(values) > num_shown else ""
    return ", ".join(map(str, values[:num_shown])) + more

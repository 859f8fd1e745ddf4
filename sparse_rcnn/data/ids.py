"""Ids of images and categories as annotation files spell them, and the integers that stand for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = int | str
_DIGITS = re.compile(r"(-?[0-9]+)(\.0*)?")  # int() would also take 1_000 and digits of other scripts
_INT64 = range(-(2**63), 2**63)


def id_key(value: Any) -> Key | None:
    """The meaning of an id, however it is spelled: 7, 7.0 and "7" are one id; None where it is not an id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return int(value) if value == value and abs(value) < 2**63 and value == int(value) else None
    if isinstance(value, str) and (text := value.strip()):
        match = _DIGITS.fullmatch(text)
        return int(match[1]) if match else text
    return None


@dataclass(frozen=True)
class Ids:
    """The ids of one section of a file.

    Attributes:
        numbers: (N,) int64, one for each record: the ids themselves where all are whole numbers, also as text or as
            1.0; else the places of the ids in their order, counted from 1.
        originals: the ids as the file spells them, by number; empty where they are the numbers.
    """

    numbers: NDArray[np.int64]
    originals: Mapping[int, Any]
    _by_key: Mapping[Key, int]
    _by_text: Mapping[str, int]  # where ids are texts that only differ as such: "7" and "007"

    @classmethod
    def of(cls, values: Sequence[Any]) -> Ids:
        """The ids of records; each has to be one (`id_key`), repetitions stay."""
        if set(map(type, values)) <= {int}:
            try:
                numbers = np.array(values, dtype=np.int64)
                return cls(numbers, {}, {}, {})
            except OverflowError:
                pass
        keys = [id_key(value) for value in values]
        texts = {value for value in values if isinstance(value, str)}
        by_text = len(set(keys)) < len(texts) == len(set(map(str, values)))
        named: list[Key] = list(values) if by_text else [key for key in keys if key is not None]
        assert len(named) == len(values)
        if all(isinstance(key, int) and key in _INT64 for key in named):
            number_of: dict[Key, int] = {key: int(key) for key in named}
        else:
            ordered = sorted(set(named), key=lambda key: (isinstance(key, str), key))
            number_of = {key: place for place, key in enumerate(ordered, 1)}
        numbers = np.array([number_of[key] for key in named], dtype=np.int64)
        originals: dict[int, Any] = {}
        for number, value in zip(numbers.tolist(), values, strict=True):
            originals.setdefault(number, value)
        if all(type(value) is int and value == number for number, value in originals.items()):
            originals = {}
        return cls(numbers, originals, {} if by_text else number_of, {str(k): n for k, n in number_of.items()})

    def find(self, values: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The numbers of references to these ids, and which of them exist."""
        if not self._by_text and set(map(type, values)) <= {int}:
            try:
                numbers = np.array(values, dtype=np.int64)
            except OverflowError:
                pass
            else:
                return numbers, np.isin(numbers, self.numbers)
        known = self._by_key if self._by_text else {n: n for n in self.numbers.tolist()}
        found = []
        for value in values:
            number = self._by_text.get(value) if isinstance(value, str) else None
            if number is None and (key := id_key(value)) is not None:
                number = known.get(key)
            found.append(number)
        exists = np.array([number is not None for number in found], dtype=np.bool_)
        return np.array([0 if number is None else number for number in found], dtype=np.int64), exists

    def numbers_of(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """The numbers of ids as results spell them, -1 where an id is neither the file's nor a whole number.

        A class that the file lacks has an id of its own in a data set that took its labels from another.
        """
        numbers, in_file = self.find(values)
        keys = [
            n if known else id_key(value) for n, known, value in zip(numbers.tolist(), in_file, values, strict=True)
        ]
        return np.array([key if isinstance(key, int) and key in _INT64 else -1 for key in keys], dtype=np.int64)

    def original(self, number: int) -> Any:
        """An id as the file spells it."""
        return self.originals.get(number, number)

"""The records of an annotation file column by column, with the names that messages give them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.data.findings import REPAIRED, Findings
from sparse_rcnn.data.foreign_formats import foreign_bytes, foreign_content
from sparse_rcnn.data.ids import Ids, id_key
from sparse_rcnn.data.image_names import NAME_KEYS
from sparse_rcnn.errors import DataError

SECTIONS = {"images": "image", "annotations": "annotation", "categories": "category"}


def load_json(path: Path) -> tuple[dict[str, Any], str]:
    """The content of a JSON file that holds an object, and the SHA-256 of its bytes.

    Raises:
        DataError: it cannot be read or is not JSON of COCO's format; names the format that it seems to be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from error
    try:
        content = json.loads(data)  # bytes: a byte order mark and UTF-16 are taken care of
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        # Only what ends too early is cut short.
        advice = "the file may be cut short" if _ends_early(error) else "correct the file there, or export it again"
        raise DataError(f"{path} is not valid JSON: {place}; {foreign_bytes(data) or advice}") from error
    except UnicodeDecodeError as error:
        reason = foreign_bytes(data) or f"byte {error.start} is not {error.encoding.upper()} text; save it as UTF-8"
        raise DataError(f"{path} is not valid JSON: {reason}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON: {foreign_bytes(data) or error}") from error
    return coco_object(content, str(path)), hashlib.sha256(data).hexdigest()


def _ends_early(error: json.JSONDecodeError) -> bool:
    return error.msg.startswith("Unterminated string") or not error.doc[error.pos :].strip()


def coco_object(content: Any, source: str) -> dict[str, Any]:
    """The content itself where it can be COCO's format.

    Raises:
        DataError: it cannot; names the format that it seems to be.
    """
    foreign = foreign_content(content)
    if not isinstance(content, dict):
        hint = f"; {foreign}" if foreign else ""
        raise DataError(f"{source} holds a {type(content).__name__}, not the object of a COCO detection file{hint}")
    if foreign:
        raise DataError(f"{source} is not a COCO detection file: {foreign}")
    return content


class Records:
    """The records of one section of an annotation file.

    Columns are checked as a whole, which for COCO's 860 000 annotations takes a fraction of the time of a loop; the
    records at fault are searched for only once it is known that there are some. Faults are collected in ``findings``.

    Raises:
        DataError: the section is absent, not a list, or holds something else than objects.
    """

    def __init__(self, content: dict[str, Any], section: str, findings: Findings) -> None:
        self.findings, self.section = findings, section
        source = findings.source
        if section not in content:
            raise DataError(f"{source} has no '{section}': not a COCO detection file")
        listed = content[section]
        if isinstance(listed, dict) and all(isinstance(record, dict) for record in listed.values()):
            # LIVECell and others write an object of records by their ids.
            listed = [{"id": key, **record} for key, record in listed.items()]
        if not isinstance(listed, list):
            raise DataError(f"{source}: '{section}' is a {type(listed).__name__}, not a list")
        self.records: list[dict[str, Any]] = listed
        for i, record in enumerate(self.records):
            if not isinstance(record, dict):
                raise DataError(f"{source}: {section}[{i}] is a {type(record).__name__}, not an object")

    def __len__(self) -> int:
        return len(self.records)

    def keep(self, which: Sequence[int] | NDArray[np.int64]) -> None:
        """Keep some of the records."""
        self.records = [self.records[i] for i in which]

    def name(self, index: int) -> str:
        record_id = self.records[index].get("id")
        name = f"{self.section}[{index}]" if record_id is None else f"{SECTIONS[self.section]} id {record_id!r:.80}"
        return name

    def label(self, index: int) -> Any:
        """The id of a record, or its place where it has none: for the lists of findings."""
        record_id = self.records[index].get("id")
        return record_id if isinstance(record_id, (int, str)) else f"{self.section}[{index}]"

    def labels(self, which: NDArray[Any]) -> list[Any]:
        """`label` of the records of a mask."""
        return [self.label(int(i)) for i in np.flatnonzero(which)]

    def refuse(self, bad: NDArray[np.bool_] | Sequence[int], kind: str, problem: str | Callable[[int], str]) -> None:
        """Note a fault of the records of a mask or list of indices; nothing for none."""
        indices = np.flatnonzero(bad) if isinstance(bad, np.ndarray) and bad.dtype == np.bool_ else np.asarray(bad)
        if len(indices):
            first = int(indices[0])
            said = problem if isinstance(problem, str) else problem(first)
            self.findings.error(kind, f"{self.name(first)} {said}", [self.label(int(i)) for i in indices])

    def values(self, key: str) -> list[Any]:
        """The values of a key, None where it is absent, null, or the NaN that pandas writes for null."""
        values = [record.get(key) for record in self.records]
        if float in set(map(type, values)):
            return [None if value != value else value for value in values]
        return values

    def required(self, key: str) -> tuple[list[Any], NDArray[np.bool_]]:
        """The values of a key and where there is one; an absent or null one is a fault."""
        values = self.values(key)
        present = np.array([value is not None for value in values], dtype=np.bool_)
        self.refuse(~present, f"no {key}", f"has no '{key}'")
        return values, present

    def ids(self) -> Ids:
        """The ids of records that must have one; those that have none are noted as faults and dropped.

        Records that say the same as another one are dropped with a word; other repetitions are faults.
        """
        values, present = self.required("id")
        usable = present & np.array([id_key(value) is not None for value in values], dtype=np.bool_)
        self.refuse(
            present & ~usable, "ids", lambda i: f"has id {values[i]!r:.80}, a whole number or a text is expected"
        )
        self.keep(np.flatnonzero(usable))
        ids = Ids.of([value for value, good in zip(values, usable, strict=True) if good])
        unique, first, inverse, counts = np.unique(
            ids.numbers, return_index=True, return_inverse=True, return_counts=True
        )
        if len(unique) == len(ids.numbers):
            return ids
        same = [self._repeats(int(first[group]), i) for i, group in enumerate(inverse.reshape(-1))]
        differing = [i for i, equal in enumerate(same) if not equal]
        name = SECTIONS[self.section]
        if differing:
            number = ids.numbers[differing[0]]
            times = int(counts[np.searchsorted(unique, number)])
            self.findings.error(
                f"{name} ids repeated",
                f"{name} id {ids.original(int(number))!r} occurs {times} times with different content; "
                "ids must be unique",
                [self.label(i) for i in differing],
            )
        repeated = [i for i in np.setdiff1d(np.arange(len(ids.numbers)), first).tolist() if same[i]]
        if repeated:
            labels = dict.fromkeys(self.label(int(first[inverse.reshape(-1)[i]])) for i in repeated)
            self.findings.add(
                REPAIRED,
                f"{name} records repeated",
                f"{name} record",
                "repeated, counted once",
                labels,
                "ids",
            )
        self.keep(first)
        return Ids.of([ids.original(int(number)) for number in unique])

    def _repeats(self, first: int, index: int) -> bool:
        """Whether a record says the same as the first of its id in all that is read of it."""
        a, b = self.records[first], self.records[index]
        if self.section == "categories":
            return a.get("name") == b.get("name")
        return all(a.get(key) == b.get(key) for key in (*NAME_KEYS, "height", "width"))

"""The categories of an annotation file, without the rest of it being checked."""

from __future__ import annotations

from pathlib import Path

from sparse_rcnn.data.annotation_columns import category_names
from sparse_rcnn.data.findings import Findings
from sparse_rcnn.data.ids import Ids
from sparse_rcnn.data.records import Records, load_json
from sparse_rcnn.errors import DataError
from sparse_rcnn.rundir.identity import file_fingerprint

_read: dict[
    str, tuple[list[tuple[int, str]], Ids]
] = {}  # by content: the file may be large, and is asked for once per row


def read_categories(annotations: str | Path) -> list[tuple[int, str]]:
    """Ids and names, in the order of a detector's labels: sorted by id.

    Raises:
        DataError: not a COCO file, no category, or one without an id or a name.
        UserError: the file cannot be read.
    """
    return _categories_and_ids(annotations)[0]


def category_ids(annotations: str | Path) -> Ids:
    """The ids of the categories, in no order, as the file spells them too; `read_categories` has numbers alone.

    Raises: as ``read_categories``.
    """
    return _categories_and_ids(annotations)[1]


def _categories_and_ids(annotations: str | Path) -> tuple[list[tuple[int, str]], Ids]:
    fingerprint = file_fingerprint(annotations)
    if fingerprint not in _read:
        findings = Findings(str(annotations))
        records = Records(load_json(Path(annotations))[0], "categories", findings)
        ids, names = records.ids(), category_names(records)
        findings.raise_errors()
        if not names:
            raise DataError(f"{annotations} has no categories")
        _read[fingerprint] = sorted(zip(ids.numbers.tolist(), names, strict=True)), ids
    return _read[fingerprint]

"""The columns of annotation, image and category records, each with its rule for values that are odd."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_rcnn.data.box_column import number_of
from sparse_rcnn.data.findings import LEFT_OUT, NOTE, REPAIRED
from sparse_rcnn.data.ids import Ids
from sparse_rcnn.data.records import Records

# Flags as tools write them; 1.0 and True are equal to 1.
TRUE, FALSE = (1, "1", "true", "True"), (0, "0", "false", "False", "")


def category_names(categories: Records) -> list[str]:
    values, present = categories.required("name")
    names = [str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for v in values]
    wrong = np.array([not isinstance(name, str) or not name.strip() for name in names], dtype=np.bool_)
    categories.refuse(present & wrong, "names", lambda i: f"has name {values[i]!r:.100}, a text is expected")
    return [str(name) for name in names]


def image_sides(images: Records, key: str) -> NDArray[np.int64]:
    """Heights or widths; 0 where a record has none, or one below 1 (some tools write -1): the file has it."""
    values = images.values(key)
    if set(map(type, values)) <= {int}:
        return np.clip(np.array(values, dtype=np.float64), 0, 2**31).astype(np.int64)
    numbers = [0.0 if value is None or value == "" else number_of(value) for value in values]
    wrong = [i for i, number in enumerate(numbers) if number is None or number != number or number % 1 != 0]
    images.refuse(wrong, f"{key} of images", lambda i: f"has {key} {values[i]!r:.100}, a whole number is expected")
    return np.array([0 if i in set(wrong) else min(max(n or 0, 0), 2**31) for i, n in enumerate(numbers)], np.int64)


def reference_positions(
    records: Records, key: str, ids: Ids, section: str, is_fault: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions of what ``key`` names among the sorted ids, and which of them exist.

    Args:
        is_fault: whether an id that is not there is a fault; else its annotations are left out.
    """
    values, present = records.required(key)
    numbers, known = ids.find(values)
    unknown = present & ~known
    if unknown.any():
        kind = f"annotations of unknown {section}"
        if is_fault:
            records.refuse(unknown, kind, lambda i: f"has {key} {values[i]!r:.80}, which is not among the {section}")
        else:
            first = values[int(np.argmax(unknown))]
            words = f"left out: no {key} {first!r:.80} among the {section}"
            records.findings.add(LEFT_OUT, kind, "annotation", words, records.labels(unknown), "annotation ids")
    positions = np.searchsorted(np.sort(ids.numbers), numbers).clip(max=max(len(ids.numbers) - 1, 0))
    return positions, known


def crowd_flags(records: Records) -> NDArray[np.bool_]:
    """Crowd boxes: by ``iscrowd``, or by the ``ignore`` of VisDrone, CrowdHuman and others."""
    values = records.values("iscrowd")
    crowd = np.array([value in TRUE for value in values], dtype=np.bool_)
    clear = np.array([value is None or value in TRUE or value in FALSE for value in values], dtype=np.bool_)
    records.refuse(
        ~clear, "iscrowd", lambda i: f"has an iscrowd that is neither 0 nor 1; correct the record ({values[i]!r:.80})"
    )
    flags = records.values("ignore")
    if set(map(type, flags)) <= {type(None)}:
        return crowd
    ignored = np.array([flag in TRUE for flag in flags], dtype=np.bool_)
    if (ignored & ~crowd).any():
        records.findings.add(
            NOTE,
            "boxes to ignore",
            "box",
            "with the flag 'ignore' taken as a crowd: no target, and no miss",
            records.labels(ignored & ~crowd),
            "annotation ids",
        )
    return crowd | ignored


def usable_boxes(
    records: Records,
    boxes: NDArray[np.float64],
    absent: NDArray[np.bool_],
    malformed: NDArray[np.bool_],
    drop: bool,
) -> NDArray[np.bool_]:
    """Boxes that are finite and have an area; the others are faults or left out (the malformed are faults already)."""
    values = records.values("bbox")
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    with np.errstate(invalid="ignore"):
        flat = finite & (boxes[:, 2:] <= 0).any(axis=1)
    infinite = finite ^ ~(absent | malformed)
    for bad, kind, noun, words, problem in (
        (flat, "boxes without area", "box", "of zero or negative size ", "a bbox of zero or negative size"),
        (infinite, "boxes not finite", "box", "of numbers that are not finite ", "a bbox that is not finite"),
        (absent, "annotations without a box", "annotation", "without a box or polygon ", "no bbox and no polygon"),
    ):
        if drop and bad.any():
            records.findings.add(LEFT_OUT, kind, noun, f"{words}left out", records.labels(bad), "annotation ids")
        elif bad.any():
            value = values[int(np.argmax(bad))]
            shown = "" if value is None else f" ({value!r:.80})"
            records.refuse(bad, kind, f"has {problem}{shown}; correct it or set drop_degenerate_boxes=True")
    return finite & ~flat


def box_areas(records: Records, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas for the evaluation's size ranges; that of the box where a record has none that can be used."""
    values = records.values("area")
    with np.errstate(over="ignore"):
        of_boxes = boxes[:, 2] * boxes[:, 3]
    is_plain = set(map(type, values)) <= {float, int} and max(values, default=0) < 2**63
    numbers = np.array(
        values if is_plain else [np.nan if (n := number_of(value)) is None else n for value in values], dtype=np.float64
    )
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(numbers) & (numbers >= 0)
    wrong = ~usable & np.array([value is not None for value in values], dtype=np.bool_)
    if wrong.any():
        first = values[int(np.argmax(wrong))]
        records.findings.add(
            REPAIRED,
            "areas",
            "area",
            f"that cannot be used, the first {first!r:.40}: the area of the box is taken",
            records.labels(wrong),
            "annotation ids",
        )
    return np.where(usable, numbers, of_boxes)


def annotation_numbers(records: Records) -> NDArray[np.int64]:
    """The ids of annotations where they are distinct whole numbers; else places in the file, counted from 1."""
    values = records.values("id")
    if set(map(type, values)) <= {int} and len(set(values)) == len(values):
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    return np.arange(1, len(values) + 1)

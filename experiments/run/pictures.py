"""The pictures of a training's data sets, looked at before the run exists: no fault comes to light after hours."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rcnn.data.annotated_images import image_name, note_unreadable
from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.findings import DataWarning, counted, shortened
from sparse_rcnn.data.picture_check import find_problems, picture_paths, shared_files
from sparse_rcnn.distributed import World
from sparse_rcnn.errors import DataError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.json_files import read_object

MANY = 2000  # pictures, from which on the check shows its progress

COUNTED, WIDE = 100, 300  # detections of a class in an image that are always evaluated

DataSets = dict[str, CocoDetection]


def readable_pictures(sets: DataSets, world: World) -> DataSets:
    """The data sets without pictures that cannot be read, where these may be skipped; all processes together.

    Rank 0 reads the headers and the ends of all files.

    Raises:
        DataError: a picture cannot be read and ``skip_unreadable`` is not set; names the first.
    """
    found: dict[str, dict[int, str]] = {}
    with world.together():
        if world.is_main:
            found = {split: _problems(dataset, split) for split, dataset in sets.items()}
    found = world.broadcast(found)
    with world.together():
        return {split: _without(dataset, found[split]) for split, dataset in sets.items()}


def as_recorded(sets: DataSets, record: Mapping[str, Any]) -> DataSets:
    """The data sets without the pictures that a run was begun without, so that its order of pictures goes on.

    Raises:
        DataError: a picture that it was begun with is left out now; names the first.
    """
    result = {}
    for split, dataset in sets.items():
        left_out = set(record.get(split, {}).get("left_out_image_ids", []))
        result[split] = dataset.without_images([i for i, n in enumerate(dataset.image_ids) if n in left_out])
        lost = [] if split not in record else sorted(left_out_ids(dataset) - left_out)
        if lost:
            raise DataError(
                f"{dataset.annotations_path}: {counted(len(lost), 'picture')} that the run was begun with cannot "
                f"be read any more, the first is that of image id {dataset.coco.ids.original(lost[0])}; restore it, "
                "the run cannot go on without it"
            )
    return result


def left_out_ids(dataset: CocoDetection) -> set[int]:
    """The ids of images that are left out because their picture is missing or cannot be read."""
    return set(dataset.coco.listed_image_ids.tolist()) - set(dataset.image_ids)


def record_of(sets: DataSets) -> dict[str, Any]:
    """The record of data sets for a run directory: findings, and the images left out because of their pictures."""
    return {
        split: {
            "annotations": str(dataset.annotations_path),
            "images": str(dataset.images_path),
            "num_images": len(dataset),
            "categories": dataset.categories,
            "num_objects": int(dataset.coco.num_objects.sum()),
            "left_out_image_ids": sorted(left_out_ids(dataset)),
            "findings": [finding.to_json() for finding in dataset.coco.findings],
        }
        for split, dataset in sets.items()
    }


def read_record(run: Path) -> dict[str, Any] | None:
    """The record of a run directory; empty for a run from before it was kept.

    None where a run was killed before it was written: it has no checkpoint, and its pictures are to be looked at.
    """
    if (run / layout.DATA).is_file():
        return read_object(run / layout.DATA)
    return {} if (run / layout.CHECKPOINTS).is_dir() else None


def warn_of_shared_pictures(sets: DataSets) -> None:
    """A word on pictures that are trained on and evaluated on, unless both sets are the same on purpose."""
    train, val = sets["train"], sets["val"]
    if train.annotations_path == val.annotations_path:
        return
    shared = shared_files(picture_paths(train.coco, train.images_path), picture_paths(val.coco, val.images_path))
    if shared:
        warnings.warn(
            f"{counted(len(shared), 'picture')} of {val.annotations_path} "
            f"{'is' if len(shared) == 1 else 'are'} in {train.annotations_path} too ({shortened(shared, 3)}): what is "
            "evaluated on was trained on",
            DataWarning,
            stacklevel=2,
        )


def warn_of_empty_classes(train: CocoDetection) -> None:
    """A word on classes of which nothing is learned; that on a root category has been said."""
    coco = train.coco
    counts = np.bincount(coco.labels[~coco.is_crowd], minlength=len(coco.categories))
    known = {item for finding in coco.findings if finding.kind == "root category" for item in finding.items}
    empty = [
        category
        for category, number in zip(coco.categories, counts, strict=True)
        if not number and category["name"] not in known
    ]
    if empty:
        ids = [str(coco.category_ids.original(category["id"])) for category in empty]
        names = shortened([category["name"] for category in empty])
        warnings.warn(
            f"{train.annotations_path}: no box of {counted(len(empty), 'class')} of {len(counts)}: {names}; "
            f"excluded_categories=[{','.join(ids[:5])}{',...' if len(ids) > 5 else ''}] leaves classes out",
            DataWarning,
            stacklevel=2,
        )


def warn_of_crowds(sets: DataSets, num_proposals: int | None, max_dets: Sequence[int]) -> None:
    """A word on images of more objects than there are proposals, or than the evaluation counts of a class."""
    for dataset in sets.values():
        if (crowded := crowded_images(dataset.coco, num_proposals)) is not None:
            warnings.warn(crowded, DataWarning, stacklevel=2)
    val = sets["val"]
    largest = largest_class(val)
    if largest > COUNTED:
        wider = min((n for n in (*max_dets, WIDE) if n >= largest), default=None)
        advice = (
            f"eval.max_dets=[{COUNTED},{WIDE},{largest}] adds the numbers at {largest}"
            if wider is None
            else f"the numbers at {wider} are under val/bbox_maxdets{wider}"
        )
        warnings.warn(
            f"{val.annotations_path}: an image has {largest} objects of one class, and COCO's AP counts {COUNTED} "
            f"detections of a class in an image; {advice}",
            DataWarning,
            stacklevel=2,
        )


def crowded_images(coco: CocoAnnotations, num_proposals: int | None) -> str | None:
    """The words for images with more objects than there are proposals; None where there are none.

    ``num_proposals`` is None of a detector without a fixed number of them.
    """
    if num_proposals is None:
        return None
    crowded = np.flatnonzero(coco.num_objects > num_proposals)
    if not len(crowded):
        return None
    first, most = image_name(coco, int(crowded[0])), coco.num_objects.max()
    return (
        f"{coco.source}: {counted(len(crowded), 'image')} of {len(coco.image_ids)} with more objects than "
        f"num_proposals={num_proposals} (up to {most}; the first is {first}): not all can be found; raise num_proposals"
    )


def largest_class(dataset: CocoDetection) -> int:
    """The largest number of objects of one class in one image, crowds not counted."""
    coco = dataset.coco
    groups = coco.image_indices * max(1, len(coco.categories)) + coco.labels
    return int(np.bincount(groups[~coco.is_crowd], minlength=1).max())


def _problems(dataset: CocoDetection, split: str) -> dict[int, str]:
    from tqdm import tqdm

    hidden = True if len(dataset) < MANY else None  # None: only where stderr is no terminal
    with tqdm(total=len(dataset), desc=f"pictures of {split}", unit="img", disable=hidden, file=sys.stderr) as bar:
        return find_problems(dataset.coco, dataset.images_path, dataset.pixel_range, dataset.max_megapixels, bar.update)


def _without(dataset: CocoDetection, problems: dict[int, str]) -> CocoDetection:
    if not problems:
        return dataset
    findings = dataset.coco.findings
    number = len(findings)
    note_unreadable(dataset.coco, dataset.images_path, problems, dataset.skip_unreadable)
    findings.raise_errors()
    findings.warn(number)
    return dataset.without_images(problems)

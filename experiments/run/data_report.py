"""All faults and oddities of the data of a configuration at once: python -m experiments.check data=..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.cli.argument_names import as_typed
from experiments.config.build import Config, advice_to_exclude, numbered_otherwise, unknown_exclusion
from experiments.run.pictures import crowded_images
from sparse_rcnn.data.annotated_images import image_name, note_unreadable, read_annotated_images
from sparse_rcnn.data.annotations import CocoAnnotations, no_boxes
from sparse_rcnn.data.box_formats import TOLERANCE
from sparse_rcnn.data.findings import ERROR, LEVELS, NOTE, REPAIRED, Finding, Findings, counted, shortened
from sparse_rcnn.data.label_space import match_categories, without_foreign_roots
from sparse_rcnn.data.picture_check import decode_all, in_both
from sparse_rcnn.errors import DataError

STYLES = {ERROR: "red", "left out": "yellow", REPAIRED: "cyan", NOTE: "dim"}


@dataclass
class SplitReport:
    """The findings of one split.

    Attributes:
        name: train or val.
        coco: its annotations; None where the file cannot be read at all.
        findings: of all levels.
        files: indices of pictures by the digest of their file.
    """

    name: str
    coco: CocoAnnotations | None
    findings: list[Finding]
    files: dict[str, list[int]]


def check_data(config: Config) -> list[SplitReport]:
    """Read all annotations and decode all pictures of a configuration; nothing is raised of what is found in them."""
    reports = [_check_split(config, split) for split in ("train", "val")]
    train, val = reports
    if train.coco is not None and val.coco is not None:
        val.findings += _compared(train, val)
    return reports


def print_report(reports: Sequence[SplitReport]) -> None:
    """Print the findings, the worst first, split by split."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for report in reports:
        coco = report.coco
        if coco is None:
            console.print(Text(report.name, style="bold"))
        else:
            objects = int(coco.num_objects.sum())
            contents = (
                f"{counted(len(coco.image_ids), 'image')}, {counted(objects, 'box')}, "
                f"{counted(len(coco.categories), 'class')} ({shortened(coco.class_names, 8)})"
            )
            console.print(Text.assemble((report.name, "bold"), f": {coco.source}: {' '.join(contents.split())}"))
        for level in LEVELS:
            for finding in report.findings:
                if finding.level == level:
                    message = " ".join(as_typed(finding.message).split())
                    console.print(Text.assemble("  ", (f"{level:9}", STYLES[level]), " ", message))
    if not any(report.findings for report in reports):
        console.print("nothing to remark")


def num_faults(reports: Sequence[SplitReport]) -> int:
    return sum(finding.level == ERROR for report in reports for finding in report.findings)


def _check_split(config: Config, split: str) -> SplitReport:
    from tqdm import tqdm

    data = config["data"]
    folder, max_megapixels = Path(data[split]["images"]), config["input"]["max_megapixels"]
    try:
        coco = read_annotated_images(
            data[split]["annotations"],
            folder,
            data["drop_degenerate_boxes"],
            data[split]["max_images"],
            data["excluded_categories"],
            data["skip_unreadable"],
            max_megapixels,
        )
    except DataError as error:
        return SplitReport(split, None, [Finding(ERROR, "annotations", str(error), ())], {})
    with tqdm(total=len(coco.image_ids), desc=f"pictures of {split}", unit="img", file=sys.stderr) as bar:
        problems, files = decode_all(coco, folder, config["input"]["pixel_range"], max_megapixels, bar.update)
    note_unreadable(coco, folder, problems, data["skip_unreadable"])
    _note_contents(coco, split, config["num_proposals"])
    repeated = [
        indices
        for digest, indices in files.items()
        if digest and len({coco.file_names[i] for i in indices}) > 1  # one file of several images is found already
    ]
    if repeated:
        names = [image_name(coco, indices[1]) for indices in repeated]
        coco.findings.add(NOTE, "repeated pictures", "picture", f"twice or more in {split}, as equal files", names)
    return SplitReport(split, coco, list(coco.findings), files)


def _note_contents(coco: CocoAnnotations, split: str, num_proposals: int | None) -> None:
    findings = coco.findings
    kinds = {finding.kind for finding in findings.of_level(ERROR)}
    if not coco.num_objects.any():
        if kinds - {"unreadable pictures"}:  # which are why
            return
        findings.put(ERROR, "nothing to do", str(no_boxes(coco, "learn from" if split == "train" else "score")))
        return
    sizes = coco.image_sizes_hw[coco.image_indices]
    ends = coco.boxes_xywh_abs[:, :2] + coco.boxes_xywh_abs[:, 2:]
    beyond = np.maximum(-coco.boxes_xywh_abs[:, :2], ends - sizes[:, ::-1]).max(axis=1)
    clipped = coco.annotation_ids[(beyond > TOLERANCE) & (sizes > 0).all(axis=1)].tolist()
    if clipped and "box format" not in kinds:
        words = "reaching out of the image, clipped at its border for training"
        findings.add(NOTE, "boxes clipped", "box", words, clipped, "annotation ids")
    counts = np.bincount(coco.labels[~coco.is_crowd], minlength=len(coco.categories))
    empty = [name for name, count in zip(coco.class_names, counts, strict=True) if not count]
    if empty:
        findings.say(
            NOTE, "empty classes", f"no box of {len(empty)} of {len(counts)} classes: {shortened(empty)}", empty
        )
    blank = np.flatnonzero(coco.num_objects == 0)
    if len(blank):
        words = "without objects, taken as background"
        findings.add(NOTE, "images without objects", "image", words, [image_name(coco, int(i)) for i in blank])
    if (crowded := crowded_images(coco, num_proposals)) is not None:
        findings.put(NOTE, "crowded images", crowded)


def _compared(train: SplitReport, val: SplitReport) -> list[Finding]:
    """The findings of a comparison of the two splits."""
    assert train.coco is not None
    assert val.coco is not None
    both = Findings(val.coco.source)
    own = without_foreign_roots(val.coco, train.coco.categories)
    try:
        match_categories(own.categories, train.coco.categories, (val.coco.source, train.coco.source))
        if (renumbered := numbered_otherwise(own, train.coco)) is not None:
            both.put(REPAIRED, "class ids", renumbered)
    except DataError as error:
        both.put(ERROR, "classes", f"{error}{advice_to_exclude(own, train.coco)}")
    if (unknown := unknown_exclusion(train.coco, val.coco)) is not None:
        both.put(ERROR, "excluded categories", unknown)
    if train.coco.source != val.coco.source and (pairs := in_both(train.files, val.files)):
        names = [f"{image_name(val.coco, j)} = {image_name(train.coco, i)}" for i, j in pairs]
        words = f"of {train.coco.source} too, as equal files: what is evaluated on is trained on"
        both.add(NOTE, "pictures of both splits", "picture", words, names)
    return list(both)


def data_overrides(overrides: Sequence[str]) -> bool:
    """Whether overrides name data to check."""
    return any(override.lstrip("+").split("=")[0].split(".")[0] == "data" for override in overrides)

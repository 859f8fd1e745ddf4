"""The embedded data set: generated images of shapes, written in plain COCO format."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_rcnn.data.shapes_render import SHAPES, Pose, paint_background, paint_object, patch
from sparse_rcnn.errors import DataError, UserError

GENERATOR_VERSION = 1
"""Raised with every change of the generator that changes a pixel or a box."""

Record = dict[str, Any]
SPLITS = ("train", "val")
CLASS_NAMES = tuple(SHAPES)
CATEGORY_IDS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)  # with gaps on purpose, as in COCO: the mapping gets used
NUM_ATTEMPTS = 40  # placements tried for an object before the image goes without it
MAX_WORKERS = 8
STALE_AFTER_SECONDS = 3600.0  # an unfinished folder without a new file for so long has no writer any more


@dataclass(frozen=True)
class Scene:
    """One generated image and what is in it.

    Shapes: ``image`` (S, S, 3) uint8 RGB; ``labels`` (M,) class indices; ``visible_masks`` (M, S, S) bool,
    disjoint; ``visibility`` (M,) visible pixels over all pixels of the object, those outside the image too.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    visible_masks: NDArray[np.bool_]
    visibility: NDArray[np.float64]


class _Layers:
    """Which object is seen at each pixel, and how much of every object is."""

    def __init__(self, size: int, min_visibility: float) -> None:
        self.min_visibility = min_visibility
        self.owner = np.full((size, size), -1)
        self.poses: list[Pose] = []
        self.full_areas = np.zeros(0, dtype=np.int64)
        self.visible_areas = np.zeros(0, dtype=np.int64)

    def put_on_top(self, pose: Pose, mask: NDArray[np.bool_]) -> bool:
        """Add an object by its mask over ``pose.window_xyxy``, if it and all others stay visible enough."""
        size, (x0, y0, _, _) = len(self.owner), pose.window_xyxy
        rows, columns = np.nonzero(mask)
        full_areas = np.append(self.full_areas, len(rows))
        rows, columns = rows + y0, columns + x0
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        rows, columns = rows[inside], columns[inside]
        hidden = np.bincount(self.owner[rows, columns] + 1, minlength=len(self.poses) + 1)[1:]
        visible_areas = np.append(self.visible_areas - hidden, len(rows))
        if np.any(visible_areas < np.maximum(self.min_visibility * full_areas, 1)):
            return False
        self.owner[rows, columns] = len(self.poses)
        self.poses.append(pose)
        self.full_areas, self.visible_areas = full_areas, visible_areas
        return True


class ShapesGenerator:
    """Makes a detection set of shapes, in which form tells the class and colour hints at it, as COCO images and JSON.

    Args:
        image_size: side of the square images in pixels.
        num_train_images, num_val_images: images of the two splits.
        num_classes: the first so many of ``CLASS_NAMES``.
        max_objects_usual: an image that is neither crowded nor empty holds 1 to so many objects.
        max_objects: a crowded image holds ``max_objects_usual`` + 1 to so many.
        crowded_fraction, empty_fraction: how likely an image is crowded, or has no object.
        min_object_size, max_object_size: side in pixels of the square around an object before it is rotated
            and stretched; drawn log-uniformly.
        max_aspect_ratio: strongest stretching, at constant area (1: none).
        min_visibility: least visible fraction of every object; a placement that leaves less to any object is
            drawn again, so nothing visible is ever without annotation.
        clustered_fraction: share of objects put against an earlier one, which makes occlusion.
        textured_fraction, low_contrast_fraction: shares of objects with a texture, or hardly off the ground.
        class_hue_fraction: share of objects in their class's own hue; the others have any, so form decides.
        background_saturation: of the most colourful background.
        max_distractors: strokes and blotches of a background, at most.
        max_noise: strongest pixel noise (standard deviation, 0..255 scale).
        seed: image ``index`` of a split depends on it, the split, the index and the arguments about content.

    Raises:
        UserError: an argument of the wrong type or out of range; the message names it.
    """

    def __init__(
        self,
        image_size: int,
        num_train_images: int,
        num_val_images: int,
        num_classes: int,
        max_objects_usual: int,
        max_objects: int,
        crowded_fraction: float,
        empty_fraction: float,
        min_object_size: float,
        max_object_size: float,
        max_aspect_ratio: float,
        min_visibility: float,
        clustered_fraction: float,
        textured_fraction: float,
        low_contrast_fraction: float,
        class_hue_fraction: float,
        background_saturation: float,
        max_distractors: int,
        max_noise: float,
        seed: int,
    ) -> None:
        self.image_size = _integer("image_size", image_size, 32, 4096)
        self.num_train_images = _integer("num_train_images", num_train_images, 1)
        self.num_val_images = _integer("num_val_images", num_val_images, 1)
        self.num_classes = _integer("num_classes", num_classes, 1, len(CLASS_NAMES))
        self.max_objects_usual = _integer("max_objects_usual", max_objects_usual, 1)
        self.max_objects = _integer("max_objects", max_objects, 1)
        self.crowded_fraction = _number("crowded_fraction", crowded_fraction, 0, 1)
        self.empty_fraction = _number("empty_fraction", empty_fraction, 0, 1)
        self.min_object_size = _number("min_object_size", min_object_size, 6, image_size)
        self.max_object_size = _number("max_object_size", max_object_size, min_object_size, image_size)
        self.max_aspect_ratio = _number("max_aspect_ratio", max_aspect_ratio, 1, 3)
        self.min_visibility = _number("min_visibility", min_visibility, 0.05, 1)
        self.clustered_fraction = _number("clustered_fraction", clustered_fraction, 0, 1)
        self.textured_fraction = _number("textured_fraction", textured_fraction, 0, 1)
        self.low_contrast_fraction = _number("low_contrast_fraction", low_contrast_fraction, 0, 1)
        self.class_hue_fraction = _number("class_hue_fraction", class_hue_fraction, 0, 1)
        self.background_saturation = _number("background_saturation", background_saturation, 0, 1)
        self.max_distractors = _integer("max_distractors", max_distractors, 0)
        self.max_noise = _number("max_noise", max_noise, 0, 64)
        self.seed = _integer("seed", seed, 0)
        if self.crowded_fraction + self.empty_fraction > 1:
            raise UserError("crowded_fraction + empty_fraction must be at most 1")
        if self.crowded_fraction > 0 and self.max_objects <= self.max_objects_usual:
            raise UserError("max_objects must be above max_objects_usual where crowded_fraction is above 0")

    def key(self) -> dict[str, Any]:
        """What identifies the data, for the identity of a run: the version and all arguments."""
        return {"generator": "shapes", "version": GENERATOR_VERSION, **vars(self)}

    def categories(self) -> list[Record]:
        """The COCO categories, in the order of the class indices."""
        pairs = zip(CATEGORY_IDS, CLASS_NAMES[: self.num_classes], strict=False)
        return [{"id": i, "name": name, "supercategory": "shape"} for i, name in pairs]

    def num_images(self, split: str) -> int:
        return self.num_train_images if split == "train" else self.num_val_images

    # --- one image ----------------------------------------------------------------------------------------

    def num_objects(self, rng: np.random.Generator) -> int:
        """Draw how many objects an image is to hold: none, a usual number or a crowd."""
        kind = rng.uniform()
        if kind < self.empty_fraction:
            return 0
        if kind < self.empty_fraction + self.crowded_fraction:
            return int(rng.integers(self.max_objects_usual + 1, self.max_objects + 1))
        return int(rng.integers(1, self.max_objects_usual + 1))

    def rng(self, split: str, index: int) -> np.random.Generator:
        """The random stream of one image, its own: images may be made in any order, by any process."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, SPLITS.index(split), index]))

    def scene(self, split: str, index: int) -> Scene:
        """Make image ``index`` of ``split`` in memory, with the masks that its annotations come from."""
        rng, size = self.rng(split, index), self.image_size
        num_objects = self.num_objects(rng)
        canvas = paint_background(rng, size, self.max_distractors, self.background_saturation)
        log_sizes = rng.uniform(math.log(self.min_object_size), math.log(self.max_object_size), num_objects)
        # Large ones tend to lie below: otherwise they would find no place that leaves the small ones visible.
        order = np.argsort(-log_sizes - 0.4 * rng.standard_normal(num_objects))
        layers, labels = _Layers(size, self.min_visibility), []
        for object_size in np.exp(log_sizes[order]):
            label = int(rng.integers(self.num_classes))
            low_contrast = rng.uniform() < self.low_contrast_fraction
            textured = rng.uniform() < self.textured_fraction
            hue = label / self.num_classes if rng.uniform() < self.class_hue_fraction else None
            for attempt in range(NUM_ATTEMPTS):
                # The size gives way, step by step, where it does not fit in between the others.
                shrunk = max(self.min_object_size, object_size * 0.93**attempt)
                pose = self._draw_pose(rng, shrunk, layers.poses)
                at = patch(pose)
                distance = SHAPES[CLASS_NAMES[label]](at)
                if layers.put_on_top(pose, distance < 0):
                    paint_object(canvas, rng, at, distance, low_contrast, textured, hue)
                    labels.append(label)
                    break
        canvas = (canvas - 127.5) * rng.uniform(0.85, 1.1) + 127.5 + rng.uniform(-18, 18)
        canvas += rng.uniform(0, self.max_noise) * rng.standard_normal(canvas.shape, dtype=np.float32)
        return Scene(
            image=np.rint(np.clip(canvas, 0, 255)).astype(np.uint8),
            labels=np.array(labels, dtype=np.int64),
            visible_masks=layers.owner == np.arange(len(labels))[:, None, None],
            visibility=layers.visible_areas / layers.full_areas,
        )

    def _draw_pose(self, rng: np.random.Generator, object_size: float, others: list[Pose]) -> Pose:
        stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(self.max_aspect_ratio))
        half = object_size / 2
        if others and rng.uniform() < self.clustered_fraction:
            other = others[int(rng.integers(len(others)))]
            direction = rng.uniform(0, 2 * math.pi)
            reach = rng.uniform(0.55, 1.0) * (half + math.sqrt(math.prod(other.half_extents)))
            x = other.centre_xy[0] + reach * math.cos(direction)
            y = other.centre_xy[1] + reach * math.sin(direction)
        else:
            x, y = rng.uniform(0.8 * half, self.image_size - 0.8 * half, 2)
        return Pose((float(x), float(y)), (half * stretch, half / stretch), rng.uniform(0, 2 * math.pi))

    # --- the set on disk ----------------------------------------------------------------------------------

    def ensure(self, root: Path, num_workers: int | None = None, progress: Callable[[int], None] | None = None) -> None:
        """Make the set in ``root``, unless it is there already.

        The set appears at once and whole: a killed process leaves ``root`` as it was, and of two that make
        the same set at the same time the later one drops its own. ``num_workers`` None takes one process per
        CPU; the result does not depend on it. ``progress`` is called with the number of images done so far.

        Raises:
            DataError: ``root`` holds something else, or cannot be written.
        """
        root = Path(root).resolve()
        try:
            if self._is_in(root):
                return
            root.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(root)
            unfinished = root.with_name(f".{root.name}.{uuid.uuid4().hex[:12]}.unfinished")
            try:
                self._write(unfinished, num_workers, progress)
                try:
                    os.replace(unfinished, root)
                except OSError:
                    if not self._is_in(root):  # if it is, another process was first
                        raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        except OSError as error:
            raise DataError(f"{root}: the generated set cannot be made there: {error}") from error

    def _is_in(self, root: Path) -> bool:
        advice = "choose another folder or delete this one"
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return False
        try:
            found = json.loads((root / "generator.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{root} is in use and holds no generated set: {advice}")
        wanted = self.key()
        differing = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        if differing:
            what = ", ".join(f"{k}: {found.get(k)} there, {wanted.get(k)} asked for" for k in differing)
            raise DataError(f"{root} holds another generated set ({what}): {advice}")
        for split in SPLITS:
            num_files = len(list((root / split).glob("*.png")))
            if num_files < self.num_images(split) or not (root / f"instances_{split}.json").exists():
                raise DataError(f"files of the generated set in {root} are gone: {advice}")
        return True

    def _write(self, folder: Path, num_workers: int | None, progress: Callable[[int], None] | None) -> None:
        records: dict[str, dict[str, list[Record]]] = {}
        for split in SPLITS:
            (folder / split).mkdir(parents=True)
            records[split] = {"images": [], "annotations": []}
        tasks = [(self, folder, split, index) for split in SPLITS for index in range(self.num_images(split))]
        with closing(_map_images(tasks, num_workers)) as results:  # no worker may write once this is left
            for num_done, (split, image, image_annotations) in enumerate(results, start=1):
                annotations = records[split]["annotations"]
                records[split]["images"].append(image)
                for annotation in image_annotations:
                    annotations.append({"id": len(annotations) + 1, **annotation})
                if progress is not None:
                    progress(num_done)
        for split in SPLITS:
            info = {"description": f"generated shapes, {split}", "version": str(GENERATOR_VERSION)}
            content = {"info": info, "licenses": [], **records[split], "categories": self.categories()}
            (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
        (folder / "generator.json").write_text(json.dumps(self.key(), indent=1), encoding="utf-8")

    def write_image(self, folder: Path, split: str, index: int) -> tuple[Record, list[Record]]:
        """Write one PNG; return its COCO image record and its annotations, whose ids are still to come."""
        scene, size = self.scene(split, index), self.image_size
        image_id = index + 1 + (self.num_train_images if split == "val" else 0)  # unique over both splits
        file_name = f"{image_id:06d}.png"
        Image.fromarray(scene.image).save(folder / split / file_name, compress_level=1)
        annotations = []
        for label, mask, visibility in zip(scene.labels, scene.visible_masks, scene.visibility, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x, y = float(columns[0]), float(rows[0])
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [x, y, float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)],
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "visibility": round(float(visibility), 4),
                }
            )
        return {"id": image_id, "file_name": file_name, "width": size, "height": size}, annotations


_Task = tuple[ShapesGenerator, Path, str, int]
_Result = tuple[str, Record, list[Record]]


def _run_task(task: _Task) -> _Result:
    generator, folder, split, index = task
    return (split, *generator.write_image(folder, split, index))


def _map_images(tasks: list[_Task], num_workers: int | None) -> Generator[_Result, None, None]:
    """Results in the order of the tasks, whoever computes them."""
    if num_workers is None:
        num_workers = min(os.cpu_count() or 1, MAX_WORKERS)
    num_done = 0
    # A daemonic process (a loader's worker) may have no children; a few images are not worth the start.
    if num_workers > 1 and len(tasks) >= 100 and not multiprocessing.current_process().daemon:
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(num_workers, context, initializer=_start_worker) as pool:
                try:
                    for result in pool.map(_run_task, tasks, chunksize=16):
                        yield result
                        num_done += 1
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
        except BrokenProcessPool:  # e.g. no importable main module, as in an interactive session: go on alone
            pass
    for task in tasks[num_done:]:
        yield _run_task(task)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A worker whose parent was killed would otherwise wait for its next task for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _remove_stale(root: Path) -> None:
    """Remove what killed processes left beside ``root``; one still at work writes files all the time."""
    for folder in root.parent.glob(f".{root.name}.*.unfinished"):
        try:
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # gone meanwhile
            continue
        if time.time() - newest > STALE_AFTER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{name} must be an integer, not {value!r}")
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"{low} to {high}"
        raise UserError(f"{name} must be {span}, not {value}")
    return value


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise UserError(f"{name} must be {low:g} to {high:g}, not {value}")
    return float(value)

"""Views of a run, made by its detector from a few validation images (docs/run_directory.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sparse_rcnn.atomic import replacing
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.image import read_image
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.rundir.views import View, picture_path, write_view

MAX_PICTURE_SIDE = 640


def view_images(model: Detector, dataset: CocoDetection, num_images: int, step: int) -> list[View]:
    """Views of the first images of a data set; the model keeps its mode and no random number is drawn."""
    views = []
    for index in range(min(num_images, len(dataset))):
        height, width = (int(side) for side in dataset.image_sizes_hw[index])
        image = read_image(
            dataset.images_path / dataset.file_names[index],
            dataset.image_ids[index],
            (height, width),
            dataset.pixel_range,
            dataset.max_megapixels,
        )
        found = model.predict_stages(image)
        truth_boxes_xyxy_abs, truth_labels = dataset.ground_truth(index)
        views.append(
            View(
                image_id=dataset.image_ids[index],
                file_name=dataset.file_names[index],
                step=step,
                size_hw=(height, width),
                class_names=dataset.class_names,
                picture=np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
                has_stages=model.has_stages,
                proposals_xyxy_abs=None if found.proposals_xyxy_abs is None else found.proposals_xyxy_abs.numpy(),
                boxes_xyxy_abs=found.boxes_xyxy_abs.numpy(),
                scores=found.scores.numpy(),
                labels=found.labels.numpy(),
                responses=None if found.responses is None else found.responses.numpy(),
                truth_boxes_xyxy_abs=truth_boxes_xyxy_abs.numpy(),
                truth_labels=truth_labels.numpy(),
            )
        )
    return views


def write_views(folder: Path, views: Sequence[View]) -> None:
    """Write each view's numbers and, once, its picture."""
    for view in views:
        path = picture_path(folder, view.image_id)
        if not path.exists():
            assert isinstance(view.picture, np.ndarray)
            image = Image.fromarray(view.picture)
            image.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
            with replacing(path) as temporary:
                image.save(temporary, format="JPEG", quality=90)
        write_view(folder, view)

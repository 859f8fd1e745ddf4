"""The public side of every detector: prediction on images, and loading from a weights file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, overload

from sparse_rcnn.architecture import TRUSTED_MODULES
from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import CheckpointError
from sparse_rcnn.image_detection import ImageInput, StagePredictions, predict, predict_stages
from sparse_rcnn.pixel_range import PixelRange
from sparse_rcnn.structures import Detections
from sparse_rcnn.weights import load_detector

Self = TypeVar("Self", bound="Detector")


class Detector(DetectorModule):
    """A detector of images; see `DetectorModule` for the interface that a class fills in."""

    @overload
    def predict(
        self,
        images: ImageInput,
        score_threshold: float = ...,
        batch_size: int = ...,
        pixel_range: PixelRange | None = ...,
        max_megapixels: float | None = ...,
    ) -> Detections: ...
    @overload
    def predict(
        self,
        images: list[ImageInput] | tuple[ImageInput, ...],
        score_threshold: float = ...,
        batch_size: int = ...,
        pixel_range: PixelRange | None = ...,
        max_megapixels: float | None = ...,
    ) -> list[Detections]: ...
    def predict(
        self,
        images: ImageInput | list[ImageInput] | tuple[ImageInput, ...],
        score_threshold: float = 0.0,
        batch_size: int = 8,
        pixel_range: PixelRange | None = None,
        max_megapixels: float | None = MAX_MEGAPIXELS,
    ) -> Detections | list[Detections]:
        """The detections of an image, in its own pixels, on the CPU.

        Images are turned upright and resized as in evaluation; ``model.card.class_names`` names the labels.

        Args:
            images: a path, a PIL image of any mode, a tensor (3, H, W) of RGB in 0..255 (uint8 or float), or
                a list of these.
            score_threshold: leave out what has a lower score.
            batch_size: images that go through the model at once, of a list.
            pixel_range: of files and PIL images of more than 8 bits a sample (semantics.md#pixel-values); None is that
                of the training.
            max_megapixels: refuse larger files before their pixels are read; None refuses none.

        Returns:
            The detections of the image, or a list of them for a list.

        Raises:
            DataError: an image cannot be read.
            UserError: no image, a model without a card, or one that predicts NaN or infinity.
        """
        if isinstance(images, (list, tuple)):
            return predict(self, images, score_threshold, batch_size, pixel_range, max_megapixels)
        return predict(self, [images], score_threshold, batch_size, pixel_range, max_megapixels)[0]

    def predict_stages(
        self, image: ImageInput, pixel_range: PixelRange | None = None, max_megapixels: float | None = MAX_MEGAPIXELS
    ) -> StagePredictions:
        """The learned proposals and every stage's output on one image, in its own pixels, for pictures.

        Raises: as ``predict``.
        """
        return predict_stages(self, image, pixel_range, max_megapixels)

    @classmethod
    def from_pretrained(cls: type[Self], path: str | Path, trusted_modules: Sequence[str] = TRUSTED_MODULES) -> Self:
        """Build the detector that a weights file describes and load its weights, in eval mode, on the CPU.

        Args:
            path: a weights file or the directory of a finished run.
            trusted_modules: top-level modules whose classes the file may name.

        Raises:
            CheckpointError: the file is absent, corrupt or not one of ours; the message names it.
        """
        model = load_detector(path, trusted_modules)
        if not isinstance(model, cls):
            hint = "; sparse_rcnn.Detector.from_pretrained loads any detector"
            raise CheckpointError(f"{path} describes a {type(model).__name__}, not a {cls.__name__}{hint}")
        return model

"""Deformable DETR: images in, what every decoder layer says out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.deformable_detr.decoder import DeformableDecoder
from sparse_rcnn.deformable_detr.encoder import DeformableEncoder
from sparse_rcnn.deformable_detr.heads import ClassHead, ReferencedBoxHead
from sparse_rcnn.deformable_detr.levels import BackboneLevels, LevelProjection
from sparse_rcnn.deformable_detr.padding import valid_ratio_wh
from sparse_rcnn.deformable_detr.postprocess import select_query_detections
from sparse_rcnn.deformable_detr.sine_encoding import CellCentreSineEncoding
from sparse_rcnn.detr import padding_mask as image_masks
from sparse_rcnn.precision import exact
from sparse_rcnn.query_boxes import QueryBoxes
from sparse_rcnn.query_detector import QueryDetector
from sparse_rcnn.structures import Detections, Targets


@dataclass(frozen=True)
class EncodedLevels:
    """The encoded cells of all levels, level by level and row by row, and where they lie.

    Shapes: ``features`` (N, S, C); ``padding_mask`` (N, S), True on padding; ``shapes_hw``, height and width of the
    levels; ``valid_ratios_wh`` (N, levels, 2).
    """

    features: Tensor
    padding_mask: Tensor
    shapes_hw: tuple[tuple[int, int], ...]
    valid_ratios_wh: Tensor


class DeformableDETR(QueryDetector):
    """The detector of arXiv 2010.04159: learned queries that read a few points of every level.

    One stage and no refinement of boxes: a query's reference point is learned, and all layers share it and the heads.

    Args:
        num_classes: K.
        num_queries: Q.
        num_levels: of the features (4); three are the backbone's.
        max_detections: of an image (100).
        backbone: images (N, 3, H, W) to maps at strides 8, 16 and 32.
        position_encoding: padding masks (N, h, w) to positions (N, C, h, w).
        encoder, decoder: of one width and these levels.
        pixel_mean, pixel_std: of RGB in 0..255 (semantics.md#input).
    """

    output_kind = "sigmoid_queries"

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        num_levels: int,
        max_detections: int,
        backbone: BackboneLevels,
        position_encoding: CellCentreSineEncoding,
        encoder: DeformableEncoder,
        decoder: DeformableDecoder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        if min(num_queries, max_detections) < 1:
            raise ValueError(
                f"num_queries and max_detections must be at least 1, got {num_queries} and {max_detections}"
            )
        hidden_dim = decoder.hidden_dim
        for name, part in (("encoder", encoder), ("position_encoding", position_encoding)):
            if part.hidden_dim != hidden_dim:
                raise ValueError(f"hidden_dim is {hidden_dim} in the decoder and {part.hidden_dim} in the {name}")
        for name, stack in (("encoder", encoder), ("decoder", decoder)):
            if stack.num_levels != num_levels:
                raise ValueError(f"num_levels is {num_levels}, but {stack.num_levels} in the {name}")
        self.num_classes, self.num_queries, self.num_levels = num_classes, num_queries, num_levels
        self.max_detections = max_detections
        self.backbone = backbone
        self.input_proj = LevelProjection(backbone.out_channels, hidden_dim, num_levels)
        self.position_encoding = position_encoding
        self.level_embed = nn.Parameter(torch.randn(num_levels, hidden_dim))
        self.encoder = encoder
        # The first half of a row is the query's position, the second its content at the start.
        self.query_embed = nn.Embedding(num_queries, 2 * hidden_dim)
        self.reference_points = nn.Linear(hidden_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        self.decoder = decoder
        self.class_embed = ClassHead(hidden_dim, num_classes)
        self.bbox_embed = ReferencedBoxHead(hidden_dim)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the backward pass recomputes each layer: less memory, same numbers."""
        return self.encoder.activation_checkpointing and self.decoder.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        self.encoder.activation_checkpointing = self.decoder.activation_checkpointing = value

    def head_modules(self) -> list[nn.Module]:
        return [*self.encoder.layers, *self.decoder.layers]

    def class_tensors(self) -> Mapping[str, ClassRows]:
        return {f"class_embed.{name}": ClassRows() for name, _ in self.class_embed.named_parameters()}

    def forward(self, images: Tensor, image_sizes_hw: Tensor, targets: Targets | None = None) -> list[QueryBoxes]:
        """Detect in a padded batch.

        Args:
            images: (N, 3, H, W) uint8 or float, RGB, 0..255, padded at the right and bottom to the largest height
                and width of the batch: what is found in an image changes with its padding.
            image_sizes_hw: (N, 2) sizes of the unpadded images.
            targets: not used; other detectors sample by them.

        Returns:
            One output per decoder layer.
        """
        memory = self.encode(images, image_sizes_hw)
        position, content = self.query_embed.weight.expand(len(images), -1, -1).chunk(2, dim=2)
        reference_points = self.query_reference_points().expand(len(images), -1, -1)
        states = self.decoder(
            content,
            position,
            reference_points[:, :, None] * memory.valid_ratios_wh[:, None],
            memory.features,
            memory.padding_mask,
            memory.shapes_hw,
        )
        return [QueryBoxes(self.class_embed(x), self.bbox_embed(x, reference_points)) for x in states]

    def encode(self, images: Tensor, image_sizes_hw: Tensor) -> EncodedLevels:
        """The memory of a padded batch, as for ``forward``."""
        maps = self.input_proj(self.backbone(self.normalize(images, image_sizes_hw)))
        shapes_hw = tuple((m.shape[2], m.shape[3]) for m in maps)
        image_mask = image_masks.padding_mask(image_sizes_hw, images.shape[2], images.shape[3])
        masks = [image_masks.at_resolution(image_mask, *shape) for shape in shapes_hw]
        positions = [
            self.position_encoding(mask) + embedding[:, None, None]
            for mask, embedding in zip(masks, self.level_embed, strict=True)
        ]
        padding_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        valid_ratios_wh = torch.stack([valid_ratio_wh(mask) for mask in masks], dim=1)
        features = self.encoder(_cells(maps), _cells(positions), padding_mask, shapes_hw, valid_ratios_wh)
        return EncodedLevels(features, padding_mask, shapes_hw, valid_ratios_wh)

    def query_reference_points(self) -> Tensor:
        """The learned reference points (Q, 2) of the queries, as (x, y) over the unpadded width and height."""
        position = self.query_embed.weight.chunk(2, dim=1)[0]
        with exact(position.device):  # a place in the image needs float32
            points: Tensor = self.reference_points(position).sigmoid()
        return points

    def detections(
        self, output: Sequence[QueryBoxes], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[Detections]:
        return select_query_detections(output[-1], original_sizes_hw, self.max_detections)

    def stage_detections(
        self, output: Sequence[QueryBoxes], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        return [select_query_detections(layer, original_sizes_hw, self.max_detections) for layer in output]


def _cells(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N, C, h, w) to one row of cells (N, S, C), map by map and row by row."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)

"""DETR: images in, classes and boxes of a fixed number of object queries out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.detr.backbone import LastMapBackbone
from sparse_rcnn.detr.mlp import MLP
from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.detr.padding_mask import at_resolution, padding_mask
from sparse_rcnn.detr.postprocess import select_query_detections
from sparse_rcnn.detr.sine_encoding import MaskSineEncoding
from sparse_rcnn.detr.transformer import Transformer
from sparse_rcnn.query_detector import QueryDetector
from sparse_rcnn.structures import Detections, Targets


class DETR(QueryDetector):
    """The detector of arXiv 2005.12872; DETR-DC5 where the backbone is dilated.

    The names of its parameters are those of the released models but for the backbone (``detr.released_names``).

    Args:
        num_classes: K; there are K + 1 logits, the last is 'no object'.
        num_queries: Q (100).
        backbone: one map.
        position_encoding: of the cells of the map.
        transformer: its encoder and decoder.
        with_position: False is the row of table 9 without spatial encoding, which differs in two ways: no encoding of
            the cells anywhere, and the query embeddings are the input of the decoder, added once, where they are
            otherwise added in every layer to an input of zeros.
        pixel_mean, pixel_std: of RGB in 0..255.

    Attributes:
        activation_checkpointing: recompute the layers of the transformer in the backward pass; False at first.
    """

    output_kind = "softmax_queries"

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        backbone: LastMapBackbone,
        position_encoding: MaskSineEncoding,
        transformer: Transformer,
        with_position: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        hidden_dim = transformer.hidden_dim
        if position_encoding.hidden_dim != hidden_dim:
            raise ValueError(
                f"position_encoding has hidden_dim {position_encoding.hidden_dim}, transformer has {hidden_dim}"
            )
        self.num_classes, self.num_queries, self.with_position = num_classes, num_queries, with_position
        self.max_detections = num_queries
        self.backbone = backbone
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.input_proj = nn.Conv2d(backbone.out_channels, hidden_dim, 1)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MLP(hidden_dim, hidden_dim, hidden_dim, 4)
        self.activation_checkpointing = False

    def class_tensors(self) -> Mapping[str, ClassRows]:
        return {f"class_embed.{name}": ClassRows(num_after=1) for name, _ in self.class_embed.named_parameters()}

    def head_modules(self) -> list[nn.Module]:
        return [*self.transformer.encoder.layers, *self.transformer.decoder.layers]

    def detections(
        self, output: Sequence[QueryOutput], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[Detections]:
        return select_query_detections(output[-1], original_sizes_hw)

    def stage_detections(
        self, output: Sequence[QueryOutput], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        return [select_query_detections(layer, original_sizes_hw) for layer in output]

    def forward(self, images: Tensor, image_sizes_hw: Tensor, targets: Targets | None = None) -> list[QueryOutput]:
        """Detect in a padded batch.

        Args:
            images: (N, 3, H, W) uint8 or float, RGB, 0..255, padded at the right and bottom to the largest height and
                width of the batch and no further: predictions change with the padding.
            image_sizes_hw: (N, 2) sizes of the unpadded images.
            targets: not used; other detectors sample by them.

        Returns:
            One output per decoder layer, the last of which is the result.
        """
        features = self.input_proj(self.backbone(self.normalize(images, image_sizes_hw)))
        mask = at_resolution(padding_mask(image_sizes_hw, *images.shape[-2:]), *features.shape[-2:])
        queries = self.query_embed.weight.expand(len(images), -1, -1)
        if self.with_position:
            position, query_position = _tokens(self.position_encoding(mask)), queries
            objects = torch.zeros_like(queries)
        else:
            position, query_position = None, None
            objects = queries
        layers = self.transformer(
            _tokens(features), mask.flatten(1), position, objects, query_position, self.activation_checkpointing
        )
        # Boxes are float32 under autocast too.
        return [QueryOutput(self.class_embed(x), self.bbox_embed(x).float().sigmoid()) for x in layers]


def _tokens(feature_map: Tensor) -> Tensor:
    """(N, C, h, w) to (N, h * w, C), row by row."""
    return feature_map.flatten(2).transpose(1, 2)

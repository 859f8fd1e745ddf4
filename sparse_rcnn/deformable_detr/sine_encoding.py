"""The fixed encoding of positions that Deformable DETR adds to its queries."""

from __future__ import annotations

from sparse_rcnn.detr.sine_encoding import MaskSineEncoding


class CellCentreSineEncoding(MaskSineEncoding):
    """Sine encoding of the centres of cells, relative to the part of a map that holds the image.

    It is DETR's but for the place of a cell: row i of h valid ones is at (i + 0.5) / h * 2 pi, columns alike, where
    DETR's counts to the cells' far edges, (i + 1) / h.
    """

    offset = 0.5

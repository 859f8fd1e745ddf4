"""From the output of the last decoder layer to detections: one per query. No NMS, no threshold, no clipping."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.query_boxes import best_class_of_queries
from sparse_rcnn.structures import Detections


@torch.no_grad()
def select_query_detections(output: QueryOutput, original_sizes_hw: Tensor) -> list[Detections]:
    """The best real class of each of the Q queries of each image, best score first, on the CPU.

    A query yields a detection even where 'no object' is the likeliest. Boxes are scaled to the original image and, as
    in the released models, may reach beyond it.

    Args:
        output: logits (N, Q, K + 1) and boxes (N, Q, 4).
        original_sizes_hw: (N, 2) sizes to scale to.

    Raises:
        NonFinitePredictionError: logits or boxes are not finite.
    """
    detections = []
    for best in best_class_of_queries(output, original_sizes_hw):
        order = best.scores.argsort(descending=True, stable=True)
        detections.append(Detections(best.boxes_xyxy_abs[order], best.scores[order], best.labels[order]))
    return detections

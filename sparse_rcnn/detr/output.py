"""The output of a decoder layer."""

from __future__ import annotations

from torch import Tensor

from sparse_rcnn.query_boxes import QueryBoxes


class QueryOutput(QueryBoxes):
    """Logits (N, Q, K + 1), the last of which is 'no object', and boxes of the object queries."""

    @property
    def class_probabilities(self) -> Tensor:
        """(N, Q, K) in float32: the softmax over all logits, without 'no object'."""
        return self.logits.float().softmax(-1)[..., :-1]

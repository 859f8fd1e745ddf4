"""One stage of the cascade: reuse, interaction, feed-forward, towers, refined boxes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sparse_rcnn.boxes import apply_deltas
from sparse_rcnn.structures import StageOutput

PRIOR_PROBABILITY = 0.01  # of a class at the start of training (Lin et al. 2017, spec 11)


class FeedForward(nn.Module):
    """C -> dim_feedforward -> C with ReLU, residual, LayerNorm (spec 6)."""

    def __init__(self, hidden_dim: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)
        self.activation = nn.ReLU(inplace=True)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, P, C) to (N, P, C)."""
        y = self.linear2(self.dropout1(self.activation(self.linear1(x))))
        return self.norm(x + self.dropout2(y))


class Tower(nn.Sequential):
    """``num_layers`` x (Linear without bias, LayerNorm, ReLU), then a Linear to ``num_outputs`` (spec 7)."""

    def __init__(self, hidden_dim: int, num_layers: int, num_outputs: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [nn.Linear(hidden_dim, hidden_dim, bias=False), nn.LayerNorm(hidden_dim), nn.ReLU(True)]
        super().__init__(*layers, nn.Linear(hidden_dim, num_outputs))

    @property
    def last(self) -> nn.Linear:
        linear = self[-1]
        assert isinstance(linear, nn.Linear)
        return linear


class Stage(nn.Module):
    """One dynamic head: object features and boxes in, refined ones out (paper section 3.2, spec 6 to 9).

    Args:
        hidden_dim: C.
        num_classes: K.
        dim_feedforward: width of the feed-forward layer (2048).
        num_cls_layers: layers of the classification tower before the logits (1).
        num_reg_layers: layers of the regression tower before the deltas (3).
        dropout: in the feed-forward layer.
        reuse: what the previous object features go through before they meet the RoI features.
        interaction: how they meet the RoI features.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_classes: int,
        dim_feedforward: int,
        num_cls_layers: int,
        num_reg_layers: int,
        dropout: float,
        reuse: nn.Module,
        interaction: nn.Module,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if dim_feedforward < 1:
            raise ValueError(f"dim_feedforward must be at least 1, got {dim_feedforward}")
        if min(num_cls_layers, num_reg_layers) < 0:
            raise ValueError(
                f"num_cls_layers and num_reg_layers must not be negative, got {num_cls_layers} and {num_reg_layers}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be within 0 (included) and 1 (excluded), got {dropout}")
        self.hidden_dim, self.num_classes = hidden_dim, num_classes
        self.reuse = reuse
        self.interaction = interaction
        self.feed_forward = FeedForward(hidden_dim, dim_feedforward, dropout)
        self.cls_tower = Tower(hidden_dim, num_cls_layers, num_classes)
        self.reg_tower = Tower(hidden_dim, num_reg_layers, 4)

    def reset_parameters(self) -> None:
        """Draw the matrices anew (Xavier uniform) and set the class prior; vectors stay as they are (spec 11)."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        nn.init.constant_(self.cls_tower.last.bias, prior)

    def forward(
        self, roi_features: Tensor, boxes_xyxy_abs: Tensor, object_features: Tensor
    ) -> tuple[StageOutput, Tensor]:
        """RoI features (N * P, C, S, S), boxes (N, P, 4), object features (N, P, C) to output and features."""
        x = self.reuse(object_features)
        x = self.interaction(x, roi_features)
        x = self.feed_forward(x)
        logits = self.cls_tower(x)
        # The exponential of a delta and pixel coordinates need float32, also under autocast.
        deltas = self.reg_tower(x).float()
        return StageOutput(logits, apply_deltas(deltas, boxes_xyxy_abs)), x

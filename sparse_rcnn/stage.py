"""One stage of the cascade: reuse, interaction, feed-forward, towers, refined boxes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sparse_rcnn.boxes import apply_deltas
from sparse_rcnn.structures import StageOutput

PRIOR_PROBABILITY = 0.01  # of a class at the start of training (Lin et al. 2017, semantics.md#initialisation)


class FeedForward(nn.Module):
    """C -> dim_feedforward -> C with ReLU, residual, LayerNorm (semantics.md#stage)."""

    def __init__(self, hidden_dim: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        if dim_feedforward < 1:
            raise ValueError(f"dim_feedforward must be at least 1, got {dim_feedforward}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be within 0 (included) and 1 (excluded), got {dropout}")
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


class NoFeedForward(nn.Identity):
    """Object features as they are, for the heads that end with their interaction (semantics.md#sparse-only)."""

    def __init__(self) -> None:  # and no arguments that would be swallowed
        super().__init__()


class Tower(nn.Sequential):
    """``num_layers`` x (Linear without bias, LayerNorm, ReLU), then a Linear (semantics.md#towers)."""

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
    """One dynamic head: object features and boxes in, refined ones out (semantics.md#stage).

    Args:
        hidden_dim: C.
        num_classes: K.
        num_cls_layers: layers of the classification tower before the logits (1).
        num_reg_layers: layers of the regression tower before the deltas (3).
        reused_dim: width of what ``reuse`` hands over: C, or 0 where it hands over nothing.
        reuse: what becomes of the object features of the stage before (``sparse_rcnn.reuse``).
        interaction: how they meet the RoI features (``sparse_rcnn.interaction``).
        feed_forward: what the result goes through.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_classes: int,
        num_cls_layers: int,
        num_reg_layers: int,
        reused_dim: int,
        reuse: nn.Module,
        interaction: nn.Module,
        feed_forward: nn.Module,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if min(num_cls_layers, num_reg_layers) < 0:
            raise ValueError(
                f"num_cls_layers and num_reg_layers must not be negative, got {num_cls_layers} and {num_reg_layers}"
            )
        if reused_dim != reuse.reused_dim:
            raise ValueError(f"reused_dim is {reused_dim}, but {type(reuse).__name__} hands over {reuse.reused_dim}")
        if getattr(interaction, "reused_dim", reused_dim) != reused_dim:
            raise ValueError(f"interaction.reused_dim is {interaction.reused_dim}, but the stage's is {reused_dim}")
        self.hidden_dim, self.num_classes, self.reused_dim = hidden_dim, num_classes, reused_dim
        self.reuse = reuse
        self.interaction = interaction
        self.feed_forward = feed_forward
        self.cls_tower = Tower(hidden_dim, num_cls_layers, num_classes)
        self.reg_tower = Tower(hidden_dim, num_reg_layers, 4)

    def reset_parameters(self) -> None:
        """Draw the matrices anew (Xavier uniform) and set the class prior (semantics.md#initialisation)."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        nn.init.constant_(self.cls_tower.last.bias, prior)

    def class_tensors(self) -> set[str]:
        """Names of the tensors that have one row per class."""
        return {f"cls_tower.{len(self.cls_tower) - 1}.{name}" for name, _ in self.cls_tower.last.named_parameters()}

    @property
    def reads_proposal_features(self) -> bool:
        """Whether any of it depends on the learned proposal features."""
        return bool(self.reused_dim or self.interaction.reads_object_features)

    def forward(
        self,
        roi_features: Tensor,
        boxes_xyxy_abs: Tensor,
        object_features: Tensor | None,
        proposal_features: Tensor | None,
    ) -> tuple[StageOutput, Tensor]:
        """One refinement.

        Args:
            roi_features: (N * P, C, S, S).
            boxes_xyxy_abs: (N, P, 4) boxes of the stage before.
            object_features: (N, P, C) of the stage before; in the first stage the learned ones.
            proposal_features: (N, P, C) the learned ones.

        Returns:
            Logits and boxes, and the object features (N, P, C).
        """
        roi_features = roi_features.unflatten(0, boxes_xyxy_abs.shape[:2])
        x = self.reuse(object_features)
        if x is None and self.interaction.reads_object_features:
            x = proposal_features
        x = self.interaction(x, roi_features)
        x = self.feed_forward(x)
        logits = self.cls_tower(x)
        # The exponential of a delta and pixel coordinates need float32, also under autocast.
        deltas = self.reg_tower(x).float()
        return StageOutput(logits, apply_deltas(deltas, boxes_xyxy_abs)), x

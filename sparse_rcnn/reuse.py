"""How the object features of the previous stage enter the next one (paper section 4.2, tables 3 and 4)."""

from __future__ import annotations

from torch import Tensor, nn


class NoReuse(nn.Module):
    """Every stage starts anew: nothing of the object features of the stage before (table 3, row 2).

    An interaction that needs a feature of each proposal then reads the learned proposal features in every stage; the
    fully connected head needs none.
    """

    reused_dim = 0

    def forward(self, object_features: Tensor | None) -> None:
        """(N, P, C) or None to None."""
        return None


class Concatenation(nn.Module):
    """The object features of the stage before as they are (table 2 row 2 = table 3 row 3 = table 4 row 1).

    The fully connected head concatenates them to its own; the dynamic and the attention head read them as the
    features that meet the RoI, so that only the self-attention is missing. The first stage takes the learned proposal
    features: the plainest reading, since a first stage has no stage before it.
    """

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = self.reused_dim = hidden_dim

    def forward(self, object_features: Tensor) -> Tensor:
        """(N, P, C) to (N, P, C)."""
        return object_features


class SelfAttention(nn.Module):
    """Multi-head self-attention over the object features of one image, residual, LayerNorm (semantics.md#stage).

    No positional encoding: the features are a set. Paper section 3.2, table 4.
    """

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if num_heads < 1 or hidden_dim % num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {num_heads}")
        self.hidden_dim, self.num_heads = hidden_dim, num_heads
        self.reused_dim = hidden_dim
        self.attention = nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, object_features: Tensor) -> Tensor:
        """(N, P, C) to (N, P, C)."""
        x = object_features
        # Asking for the weights takes the plain softmax(QK)V path. On a CPU it costs nothing at 500 proposals and
        # rounds as the released model does; PyTorch's fused CPU kernel sums in another order.
        attended, _ = self.attention(x, x, x, need_weights=x.device.type == "cpu")
        return self.norm(x + self.dropout(attended))

"""DETR's transformer: an encoder over the cells of a map and a decoder over object queries."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def _attention(hidden_dim: int, num_heads: int, dropout: float) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(hidden_dim, num_heads, dropout=dropout, batch_first=True)


def _plus(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward, each a residual branch with dropout and a norm.

    Args: as ``Transformer``.
    """

    def __init__(
        self, hidden_dim: int, num_heads: int, dim_feedforward: int, dropout: float, activation: str, norm_first: bool
    ) -> None:
        super().__init__()
        self.self_attn = _attention(hidden_dim, num_heads, dropout)
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)
        self.norm1, self.norm2 = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, mask: Tensor, position: Tensor | None) -> Tensor:
        """Tokens (N, T, C) to the next ones.

        Args:
            x: tokens.
            mask: (N, T), True on padding.
            position: (N, T, C), added to queries and keys.
        """
        if self.norm_first:
            x = x + self._attend(self.norm1(x), mask, position)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, mask, position))
        return self.norm2(x + self._feed_forward(x))

    def _attend(self, x: Tensor, mask: Tensor, position: Tensor | None) -> Tensor:
        query = _plus(x, position)
        attended, _ = self.self_attn(query, query, x, key_padding_mask=mask, need_weights=False)
        return self.dropout(attended)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward, each a residual branch with dropout and a norm.

    Args: as ``Transformer``.
    """

    def __init__(
        self, hidden_dim: int, num_heads: int, dim_feedforward: int, dropout: float, activation: str, norm_first: bool
    ) -> None:
        super().__init__()
        self.self_attn = _attention(hidden_dim, num_heads, dropout)
        self.multihead_attn = _attention(hidden_dim, num_heads, dropout)  # the cross-attention, by its released name
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(hidden_dim) for _ in range(3))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, keys: Tensor, memory: Tensor, mask: Tensor, query_position: Tensor | None) -> Tensor:
        """Object features (N, Q, C) to the next ones.

        Args:
            x: object features.
            keys: memory with its spatial encoding (N, T, C).
            memory: (N, T, C).
            mask: (N, T), True on padding.
            query_position: (N, Q, C), added to the queries and to the keys of the self-attention.
        """
        if self.norm_first:
            x = x + self._attend_objects(self.norm1(x), query_position)
            x = x + self._attend_image(self.norm2(x), keys, memory, mask, query_position)
            return x + self._feed_forward(self.norm3(x))
        x = self.norm1(x + self._attend_objects(x, query_position))
        x = self.norm2(x + self._attend_image(x, keys, memory, mask, query_position))
        return self.norm3(x + self._feed_forward(x))

    def _attend_objects(self, x: Tensor, query_position: Tensor | None) -> Tensor:
        query = _plus(x, query_position)
        attended, _ = self.self_attn(query, query, x, need_weights=False)
        return self.dropout(attended)

    def _attend_image(
        self, x: Tensor, keys: Tensor, memory: Tensor, mask: Tensor, query_position: Tensor | None
    ) -> Tensor:
        query = _plus(x, query_position)
        attended, _ = self.multihead_attn(query, keys, memory, key_padding_mask=mask, need_weights=False)
        return self.dropout(attended)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class _Encoder(nn.Module):
    def __init__(self, layer: EncoderLayer, num_layers: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.norm = norm


class _Decoder(nn.Module):
    def __init__(self, layer: DecoderLayer, num_layers: int, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.norm = norm


class Transformer(nn.Module):
    """The encoder and the decoder of the released models.

    Layers start as copies of one whose matrices are then drawn anew (Xavier uniform), so that the one-dimensional
    parameters start equal in all layers of a stack.

    Args:
        hidden_dim: C, a multiple of ``num_heads``.
        num_heads: of every attention (8).
        num_encoder_layers, num_decoder_layers: 6 and 6; at least one decoder layer.
        dim_feedforward: width within the feed-forwards (2048).
        dropout: on every residual branch, on attention weights and within the feed-forwards (0.1).
        activation: of the feed-forwards, "relu" or "gelu".
        norm_first: norm the input of every branch, and the output of the encoder, where the released models (False)
            norm the sum after every branch.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        norm_first: bool,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden_dim < 1 or hidden_dim % num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {num_heads}")
        if num_encoder_layers < 0:
            raise ValueError(f"num_encoder_layers must be at least 0, got {num_encoder_layers}")
        if num_decoder_layers < 1:
            raise ValueError(f"num_decoder_layers must be at least 1, got {num_decoder_layers}")
        if dim_feedforward < 1:
            raise ValueError(f"dim_feedforward must be at least 1, got {dim_feedforward}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be within 0 (included) and 1 (excluded), got {dropout}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        self.hidden_dim, self.num_decoder_layers = hidden_dim, num_decoder_layers
        settings = (hidden_dim, num_heads, dim_feedforward, dropout, activation, norm_first)
        encoder_norm = nn.LayerNorm(hidden_dim) if norm_first else None
        self.encoder = _Encoder(EncoderLayer(*settings), num_encoder_layers, encoder_norm)
        self.decoder = _Decoder(DecoderLayer(*settings), num_decoder_layers, nn.LayerNorm(hidden_dim))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(self, tokens: Tensor, mask: Tensor, position: Tensor | None, recompute: bool) -> Tensor:
        """Tokens to memory, both (N, T, C); arguments as ``forward``."""
        for layer in self.encoder.layers:
            tokens = _run(recompute, layer, tokens, mask, position)
        return tokens if self.encoder.norm is None else self.encoder.norm(tokens)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        position: Tensor | None,
        objects: Tensor,
        query_position: Tensor | None,
        recompute: bool,
    ) -> list[Tensor]:
        """Encode and decode.

        Args:
            tokens: the cells of a map, row by row, (N, T, C).
            mask: (N, T), True on padding.
            position: the spatial encoding (N, T, C), added to queries and keys of every encoder layer and to the keys
                of every cross-attention; None adds nothing.
            objects: the object features that the decoder starts from, (N, Q, C).
            query_position: (N, Q, C), added to the queries in every decoder layer; None adds nothing.
            recompute: the layers in the backward pass, which needs less memory and gives the same numbers.

        Returns:
            The normed object features (N, Q, C) of every decoder layer.
        """
        memory = self.encode(tokens, mask, position, recompute)
        keys = _plus(memory, position)
        normed = []
        for layer in self.decoder.layers:
            objects = _run(recompute, layer, objects, keys, memory, mask, query_position)
            # The norm is for the heads alone: the next layer goes on from the features without it.
            normed.append(self.decoder.norm(objects))
        return normed


def _run(recompute: bool, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
    if recompute and torch.is_grad_enabled():
        output: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
    else:
        output = layer(*inputs)
    return output

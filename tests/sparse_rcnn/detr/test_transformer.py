"""The encoder and decoder: PyTorch's own layers, a decoder in single steps, padding, initialisation, dropout."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.detr.transformer import DecoderLayer, EncoderLayer, Transformer

M = TypeVar("M", bound=nn.Module)
C, HEADS, WIDTH = 16, 4, 24
N, T, Q = 2, 9, 5


def transformer(seed: int = 0, **changes: Any) -> Transformer:
    settings: dict[str, Any] = {
        "hidden_dim": C,
        "num_heads": HEADS,
        "num_encoder_layers": 2,
        "num_decoder_layers": 3,
        "dim_feedforward": WIDTH,
        "dropout": 0.0,
        "activation": "relu",
        "norm_first": False,
    }
    torch.manual_seed(seed)
    return shaken(Transformer(**settings | changes))


def shaken(module: M) -> M:
    """A module whose biases and norms are not at their initial values, which would hide that one is left out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return module


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Tokens, mask, position, objects, query positions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.zeros(N, T, dtype=torch.bool)
    mask[1, 5:] = True
    return normal(N, T, C), mask, normal(N, T, C), normal(N, Q, C), normal(N, Q, C)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_layers_without_position_are_pytorchs(activation: str, norm_first: bool) -> None:
    tokens, mask, _, objects, _ = inputs()
    own = shaken(EncoderLayer(C, HEADS, WIDTH, 0.0, activation, norm_first))
    theirs = nn.TransformerEncoderLayer(C, HEADS, WIDTH, 0.0, activation, norm_first=norm_first, batch_first=True)
    theirs.load_state_dict(own.state_dict())
    torch.testing.assert_close(own(tokens, mask, None), theirs(tokens, src_key_padding_mask=mask))

    decoder = shaken(DecoderLayer(C, HEADS, WIDTH, 0.0, activation, norm_first))
    oracle = nn.TransformerDecoderLayer(C, HEADS, WIDTH, 0.0, activation, norm_first=norm_first, batch_first=True)
    oracle.load_state_dict(decoder.state_dict())
    wanted = oracle(objects, tokens, memory_key_padding_mask=mask)
    torch.testing.assert_close(decoder(objects, tokens, tokens, mask, None), wanted)


def attend(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one image in loops over its heads: (Q, C), (T, C), (T, C) and (T,) to (Q, C)."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    size = C // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / size**0.5
        if mask is not None:
            scores = scores[:, ~mask]
            heads.append(scores.softmax(1) @ v[~mask, part])
        else:
            heads.append(scores.softmax(1) @ v[:, part])
    return torch.cat(heads, 1) @ attention.out_proj.weight.T + attention.out_proj.bias


def naive(model: Any, tokens: Tensor, mask: Tensor, position: Tensor, objects: Tensor, queries: Tensor) -> list[Tensor]:
    """The transformer of one image as it is written in the paper's appendix, norms after the branches."""

    def feed_forward(layer: Any, x: Tensor) -> Tensor:
        return layer.linear2(layer.linear1(x).clamp(min=0))

    memory = tokens
    for layer in model.encoder.layers:
        query = memory + position
        memory = layer.norm1(memory + attend(layer.self_attn, query, query, memory, mask))
        memory = layer.norm2(memory + feed_forward(layer, memory))
    outputs = []
    for layer in model.decoder.layers:
        query = objects + queries
        objects = layer.norm1(objects + attend(layer.self_attn, query, query, objects, None))
        seen = attend(layer.multihead_attn, objects + queries, memory + position, memory, mask)
        objects = layer.norm2(objects + seen)
        objects = layer.norm3(objects + feed_forward(layer, objects))
        outputs.append(model.decoder.norm(objects))
    return outputs


def test_positions_enter_every_layer_and_the_norm_is_for_the_heads_alone() -> None:
    model, given = transformer(), inputs()
    with torch.no_grad():
        got = model(*given, recompute=False)
        assert len(got) == 3
        for n in range(N):
            wanted = naive(model, *(x[n] for x in given))
            for layer, output in enumerate(wanted):
                torch.testing.assert_close(got[layer][n], output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_is_the_same_as_nothing(norm_first: bool) -> None:
    model = transformer(norm_first=norm_first)
    tokens, mask, position, objects, queries = inputs()
    whole = model(tokens, mask, position, objects, queries, recompute=False)
    tokens, position = tokens.clone(), position.clone()
    tokens[1, 5:], position[1, 5:] = 100, -100
    others = model(tokens, mask, position, objects, queries, recompute=False)
    cut = model(tokens[1:, :5], mask[1:, :5], position[1:, :5], objects[1:], queries[1:], recompute=False)
    for a, b, c in zip(whole, others, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a[1:], c, rtol=1e-5, atol=1e-5)


def test_no_position_is_a_position_of_zeros() -> None:
    model = transformer()
    tokens, mask, position, objects, queries = inputs()
    nothing = model(tokens, mask, None, objects, None, recompute=False)
    zeros = model(tokens, mask, 0 * position, objects, 0 * queries, recompute=False)
    for a, b in zip(nothing, zeros, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("norm_first", [False, True])
def test_recomputed_layers_give_the_same_gradients(norm_first: bool) -> None:
    gradients = []
    for recompute in (False, True):
        model = transformer(dropout=0.3, norm_first=norm_first)
        torch.manual_seed(7)  # of dropout
        sum(x.square().sum() for x in model(*inputs(), recompute=recompute)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = Transformer(C, HEADS, 3, 3, WIDTH, 0.1, "relu", norm_first=False)
    for stack in (model.encoder, model.decoder):
        first, *others = stack.layers
        for other in others:
            for (name, a), (_, b) in zip(first.named_parameters(), other.named_parameters(), strict=True):
                assert torch.equal(a, b) == (a.dim() == 1), f"{name}: vectors are copies, matrices are not"
        for name, parameter in stack.named_parameters():
            if parameter.dim() > 1:
                num_out, num_in = parameter.shape  # the packed 3 C x C as one matrix
                bound = (6 / (num_in + num_out)) ** 0.5
                assert 0.8 * bound < parameter.abs().max() <= bound, name
            elif "norm" in name:
                assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
            elif "attn" in name:
                assert (parameter == 0).all(), name
            else:
                assert parameter.abs().max() > 0, f"{name}: the bias of a linear layer is PyTorch's"
    assert not torch.equal(model.encoder.layers[0].linear1.bias, model.decoder.layers[0].linear1.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_encoder_has_a_norm_of_its_own_with_norm_first_alone(norm_first: bool) -> None:
    names = dict(transformer(norm_first=norm_first).named_parameters())
    assert ("encoder.norm.weight" in names) == norm_first
    assert "decoder.norm.weight" in names


def test_dropout_is_on_in_training_alone() -> None:
    model, given = transformer(dropout=0.5), inputs()
    assert not torch.equal(model(*given, recompute=False)[-1], model(*given, recompute=False)[-1])
    model.eval()
    torch.testing.assert_close(model(*given, recompute=False)[-1], model(*given, recompute=False)[-1], rtol=0, atol=0)
    wanted = transformer(dropout=0.0)(*given, recompute=False)[-1]
    torch.testing.assert_close(model(*given, recompute=False)[-1], wanted)


def test_dropout_is_on_attention_weights_branches_and_within_feed_forwards() -> None:
    layers: list[Any] = [
        EncoderLayer(C, HEADS, WIDTH, 0.25, "relu", False),
        DecoderLayer(C, HEADS, WIDTH, 0.25, "relu", False),
    ]
    for layer in layers:
        attentions = [m for m in layer.modules() if isinstance(m, nn.MultiheadAttention)]
        assert [m.dropout for m in attentions] == [0.25] * len(attentions)
        calls: list[torch.Size] = []
        layer.dropout.register_forward_hook(lambda m, i, output, calls=calls: calls.append(output.shape))
        tokens, mask, position, objects, queries = inputs()
        if isinstance(layer, EncoderLayer):
            layer(tokens, mask, position)
        else:
            layer(objects, tokens, tokens, mask, queries)
        assert [shape[-1] for shape in calls] == [C] * len(attentions) + [WIDTH, C]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_dim 16 is not a multiple of num_heads 3"),
        ({"num_encoder_layers": -1}, "num_encoder_layers"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be at least 1"),
        ({"dim_feedforward": 0}, "dim_feedforward"),
        ({"dropout": 1.0}, "dropout"),
        ({"activation": "tanh"}, r"activation must be one of \['gelu', 'relu'\], got 'tanh'"),
    ],
)
def test_rejected_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**changes)

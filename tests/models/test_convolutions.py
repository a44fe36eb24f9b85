"""Our convolutions against torch's own."""

import pytest
import torch
from torch import nn

from aigc_ops.models.nn import convolutions

SHAPES = [(3, 4, 2, 1, 0), (8, 4, 2, 1, 0), (7, 4, 2, 1, 0), (7, 3, 2, 1, 1), (9, 4, 3, 0, 2)]


def pair(kind: str, channels: tuple[int, int], sizes: tuple[int, ...]):
    """Ours and torch's layer of the same weights, in float64."""
    side, stride, padding, output_padding = sizes
    more = {"output_padding": output_padding} if kind == "ConvTranspose2d" else {}
    torch.manual_seed(0)
    ours = getattr(convolutions, kind)(*channels, side, stride, padding, **more).double()
    theirs = getattr(nn, kind)(*channels, side, stride, padding, **more).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
@pytest.mark.parametrize(("size", *["side", "stride", "padding", "output_padding"]), SHAPES)
def test_values_and_derivatives_are_those_of_torch(
    kind, size, side, stride, padding, output_padding, monkeypatch
):
    monkeypatch.setattr(convolutions, "MAX_PLACES", 100)
    ours, theirs = pair(kind, (3, 5), (side, stride, padding, output_padding))
    images = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    found = []
    for layer in (ours, theirs):
        made = layer(images)
        first = torch.autograd.grad(made.square().sum(), [images, *layer.parameters()],
                                    create_graph=True)  # fmt: skip
        second = torch.autograd.grad(first[0].square().sum(), [images, layer.weight])
        found.append([made, *first, *second])
    assert type(found[0][0].grad_fn.next_functions[0][0]).__name__ == "_ConvolutionBackward"
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_autocast_computes_them_in_its_precision_and_keeps_gradients_in_float():
    ours, theirs = pair("Conv2d", (16, 8), (4, 2, 1, 0))
    ours, theirs = ours.float(), theirs.float()
    images = torch.randn(4, 16, 8, 8)
    gradients = []
    for layer in (ours, theirs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = layer(images)
        assert made.dtype == torch.bfloat16
        assert (type(made.grad_fn).__name__ == "AddBackward0") == (layer is ours)
        made.float().square().mean().backward()
        gradients.append(layer.weight.grad)
    assert gradients[0].dtype == torch.float32
    scale = gradients[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() < 0.02 * scale


def test_large_maps_are_left_to_torch():
    ours, _ = pair("Conv2d", (3, 5), (4, 2, 1, 0))
    made = ours(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    assert type(made.grad_fn).__name__ == "ConvolutionBackward0"

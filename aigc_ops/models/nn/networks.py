"""Upsampling and downsampling networks shared by the image families.

Three kinds: fully connected (Goodfellow et al. 2014), convolutional (Radford, Metz & Chintala 2016,
DCGAN), and residual with self-attention (Zhang et al. 2019, SAGAN). Deviation: image sizes are 4 to
7 pixels times any power of two, where DCGAN has 4 x 16. Fully connected networks take any size.
"""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.model import num_upsampling_stages
from aigc_ops.models.nn.blocks import (
    ConditionalSequential,
    ResidualDown,
    ResidualUp,
    SelfAttention,
    batch_norm,
    initialise,
    initialise_without_norm,
)
from aigc_ops.models.nn.convolutions import Conv2d, ConvTranspose2d

Network = Literal["convolutional", "fully_connected", "residual"]
ATTENTION_SIDE = range(14, 33)
"""Sides of feature maps with self-attention: 32 and 16, 28 and 14, but not 7."""
MAX_WIDENING = 16  # channels stop doubling at 16 times the width, as in BigGAN


class UpsamplingNetwork(nn.Module):
    """Network from codes (B, code_dim) to images (B, C, H, W), unbounded, in float32."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = ConditionalSequential(layers)

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        # float32 whatever autocast chose: tanh, sigmoid and losses need its precision.
        images: Tensor = self.layers(codes, labels)
        return images.float()


class DownsamplingNetwork(nn.Module):
    """Network from images (B, C, H, W) to features (B, num_features)."""

    def __init__(self, layers: list[nn.Module], num_features: int) -> None:
        super().__init__()
        self.layers, self.num_features = nn.Sequential(*layers), num_features

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def build_upsampling(
    kind: Network, *, code_dim: int, width: int, shape: ImageShape, num_classes: int = 0
) -> UpsamplingNetwork:
    """Return an upsampling network with `width` channels at half the image's size.

    With `num_classes` its batch norms are conditional on the label.
    """
    if kind == "fully_connected":
        return _dense_upsampling(code_dim, width, shape)
    if kind == "residual":
        return _residual_upsampling(code_dim, width, shape, num_classes)
    # DCGAN: a base of 4 to 7 pixels, then each layer doubles the size and halves the channels.
    channels = _channels(width, shape)[::-1]
    base = shape.height >> len(channels)
    layers: list[nn.Module] = [
        nn.Unflatten(1, (code_dim, 1, 1)),
        nn.ConvTranspose2d(code_dim, channels[0], base, bias=False),
    ]
    for wide, narrow in pairwise(channels):
        double = ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)
        layers += [batch_norm(wide, num_classes), nn.ReLU(inplace=True), double]
    last = ConvTranspose2d(channels[-1], shape.channels, 4, stride=2, padding=1)
    layers += [batch_norm(channels[-1], num_classes), nn.ReLU(inplace=True), last]
    network = UpsamplingNetwork(layers)
    network.apply(initialise)
    return network


def build_downsampling(
    kind: Network, *, width: int, shape: ImageShape, normalise: bool = True
) -> DownsamplingNetwork:
    """Return a downsampling network; without `normalise`, rows of a batch are independent."""
    if kind == "fully_connected":
        return _dense_downsampling(width, shape)
    if kind == "residual":
        return _residual_downsampling(width, shape)
    channels = _channels(width, shape)
    layers: list[nn.Module] = [Conv2d(shape.channels, width, 4, stride=2, padding=1)]
    for narrow, wide in pairwise(channels):
        halve = Conv2d(narrow, wide, 4, stride=2, padding=1, bias=not normalise)
        layers += [nn.LeakyReLU(0.2, inplace=True), halve]
        # Batch norm after all but the first layer, as in DCGAN; it makes the bias redundant.
        layers += [nn.BatchNorm2d(wide)] if normalise else []
    layers += [nn.LeakyReLU(0.2, inplace=True), nn.Flatten()]
    network = DownsamplingNetwork(layers, channels[-1] * (shape.height >> len(channels)) ** 2)
    network.apply(initialise if normalise else initialise_without_norm)
    return network


def _channels(width: int, shape: ImageShape) -> list[int]:
    return [width << level for level in range(num_upsampling_stages(shape))]


# Fully connected: 4, 8 and 16 times the width; at width 64 the usual 256, 512 and 1,024


def _dense_upsampling(code_dim: int, width: int, shape: ImageShape) -> UpsamplingNetwork:
    widths = [code_dim, 4 * width, 8 * width, 16 * width]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    size = (shape.channels, shape.height, shape.width)
    layers += [nn.Linear(widths[-1], math.prod(size)), nn.Unflatten(1, size)]
    return UpsamplingNetwork(layers)


def _dense_downsampling(width: int, shape: ImageShape) -> DownsamplingNetwork:
    widths = [shape.channels * shape.height * shape.width, 16 * width, 8 * width, 4 * width]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return DownsamplingNetwork(layers, widths[-1])


# Residual with self-attention


def _residual_upsampling(
    code_dim: int, width: int, shape: ImageShape, num_classes: int
) -> UpsamplingNetwork:
    # The last block keeps the number of channels, so that `width` is that of the largest map.
    narrow_first = _residual_channels(width, shape)
    channels = [*narrow_first[::-1], narrow_first[0]]
    side = shape.height >> len(narrow_first)
    base = (channels[0], side, side)
    layers: list[nn.Module] = [nn.Linear(code_dim, math.prod(base)), nn.Unflatten(1, base)]
    attends = False
    for before, after in pairwise(channels):
        layers.append(ResidualUp(before, after, num_classes=num_classes))
        side *= 2
        if side in ATTENTION_SIDE and not attends:
            layers.append(SelfAttention(after))
            attends = True
    layers += [batch_norm(channels[-1], num_classes), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(channels[-1], shape.channels, 3, padding=1))
    return UpsamplingNetwork(layers)


def _residual_downsampling(width: int, shape: ImageShape) -> DownsamplingNetwork:
    channels = [shape.channels, *_residual_channels(width, shape)]
    side, attends = shape.height, False
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers.append(ResidualDown(before, after, is_first=not layers))
        side //= 2
        if side in ATTENTION_SIDE and not attends:
            layers.append(SelfAttention(after))
            attends = True
    # The mean over positions, where SAGAN has the sum: the scale does not depend on image size.
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return DownsamplingNetwork(layers, channels[-1])


def _residual_channels(width: int, shape: ImageShape) -> list[int]:
    return [width * min(1 << level, MAX_WIDENING) for level in range(num_upsampling_stages(shape))]

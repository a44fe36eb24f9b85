"""The convolutional halves that image families share (Radford, Metz & Chintala 2016)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from aigc_ops.artifacts import ImageShape
from aigc_ops.generative import num_doublings


class Upsampler(nn.Module):
    """Codes (B, code_dim) to images (B, C, S, S), unbounded; `width` channels at S / 2."""

    def __init__(self, *, code_dim: int, width: int, shape: ImageShape) -> None:
        super().__init__()
        doublings = num_doublings(shape)
        channels = [width << level for level in range(doublings - 1, -1, -1)]
        base = shape.height >> doublings
        layers: list[nn.Module] = [nn.ConvTranspose2d(code_dim, channels[0], base, bias=False)]
        for wide, narrow in pairwise(channels):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True), _double(wide, narrow)]
        layers += [nn.BatchNorm2d(channels[-1]), nn.ReLU(inplace=True)]
        last = nn.ConvTranspose2d(channels[-1], shape.channels, 4, stride=2, padding=1)
        self.layers = nn.Sequential(*layers, last)
        self.apply(initialise)

    def forward(self, codes: Tensor) -> Tensor:
        images: Tensor = self.layers(codes[:, :, None, None])
        return images.float()


class Downsampler(nn.Module):
    """Images (B, C, S, S) to features (B, num_features); `width` channels at S / 2."""

    def __init__(self, *, width: int, shape: ImageShape) -> None:
        super().__init__()
        doublings = num_doublings(shape)
        channels = [width << level for level in range(doublings)]
        layers: list[nn.Module] = [nn.Conv2d(shape.channels, width, 4, stride=2, padding=1)]
        for narrow, wide in pairwise(channels):
            layers += [
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide),
            ]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True), nn.Flatten())
        self.num_features = channels[-1] * (shape.height >> doublings) ** 2
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class LabelledCode(nn.Module):
    """Codes (B, code_dim) with an embedding of labels (B,) beside them, if there are any.

    The embedding starts far smaller than the noise it stands beside. Started at the same
    scale, N(0, 1), it drowned the noise, and each class collapsed to one digit.
    """

    def __init__(self, *, code_dim: int, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, code_dim) if num_classes else None
        self.width = 2 * code_dim if num_classes else code_dim
        self.apply(initialise)

    def forward(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return codes if self.embed is None else torch.cat([codes, self.embed(labels)], dim=1)


def initialise(module: nn.Module) -> None:
    """DCGAN's first weights: N(0, 0.02), and scales of batch norm N(1, 0.02)."""
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)


def _double(wide: int, narrow: int) -> nn.Module:
    return nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False)

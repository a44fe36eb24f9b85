"""Layers of the image families' networks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ClassConditionedLatent(nn.Module):
    """Codes (B, code_dim), concatenated with an embedding of labels (B,) if there are any."""

    def __init__(self, *, code_dim: int, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, code_dim) if num_classes else None
        self.width = 2 * code_dim if num_classes else code_dim
        # The embedding starts at N(0, 0.02), far smaller than the noise beside it. At the noise's
        # own scale, N(0, 1), it dominated, and each class collapsed to one digit.
        self.apply(initialise)

    def forward(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return codes if self.embed is None else torch.cat([codes, self.embed(labels)], dim=1)


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a scale and shift per class (de Vries et al. 2017, eq. 4)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        scale, shift = (embed(labels)[:, :, None, None] for embed in (self.scale, self.shift))
        labelled: Tensor = self.norm(images) * scale + shift
        return labelled


def batch_norm(channels: int, num_classes: int) -> nn.Module:
    """Return batch norm over (B, C, H, W), conditional if there are classes."""
    return ConditionalBatchNorm(channels, num_classes) if num_classes else nn.BatchNorm2d(channels)


class ConditionalSequential(nn.Module):
    """`nn.Sequential` that passes labels (B,) to the layers that take them."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            takes_labels = isinstance(layer, ConditionalBatchNorm | ResidualUp)
            values = layer(values, labels) if takes_labels else layer(values)
        return values


class ResidualUp(nn.Module):
    """Residual block from (B, in, S, S) to (B, out, 2S, 2S), with batch norm before each ReLU.

    Miyato et al. 2018, figure 5; Brock, Donahue & Simonyan 2019, figure 15 a.
    """

    def __init__(self, channels_in: int, channels_out: int, *, num_classes: int) -> None:
        super().__init__()
        self.norm1 = batch_norm(channels_in, num_classes)
        self.norm2 = batch_norm(channels_out, num_classes)
        # No bias before batch norm, which would subtract it again.
        self.convolve1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.convolve2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.enlarge = nn.Upsample(scale_factor=2)
        self.by_label = num_classes > 0

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        hidden = self._normed(self.norm1, images, labels).relu()
        hidden = self.convolve1(self.enlarge(hidden))
        hidden = self.convolve2(self._normed(self.norm2, hidden, labels).relu())
        # A 1 x 1 convolution commutes with enlarging; done first, it costs a quarter.
        total: Tensor = hidden + self.enlarge(self.shortcut(images))
        return total

    def _normed(self, norm: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        normed: Tensor = norm(images, labels) if self.by_label else norm(images)
        return normed


class ResidualDown(nn.Module):
    """Residual block from (B, in, S, S) to (B, out, S / 2, S / 2), for spectral norm.

    Miyato et al. 2018, figure 5, without normalisation. `is_first` omits the first ReLU, which
    would discard the dark half of the image.
    """

    def __init__(self, channels_in: int, channels_out: int, *, is_first: bool = False) -> None:
        super().__init__()
        self.convolve1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.convolve2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.halve = nn.AvgPool2d(2)
        self.is_first = is_first

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.convolve1(images if self.is_first else images.relu())
        hidden = self.halve(self.convolve2(hidden.relu()))
        # As above: the 1 x 1 convolution commutes with the mean, and is cheaper on the small map.
        total: Tensor = hidden + self.shortcut(self.halve(images))
        return total


class SelfAttention(nn.Module):
    """Self-attention among all positions of a (B, C, S, S) feature map.

    Zhang et al. 2019 (SAGAN), eqs. 1 to 3, with keys and values max-pooled 2 x 2 as in its code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, max(1, channels // 2), 1, bias=False)
        self.out = nn.Conv2d(max(1, channels // 2), channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))  # gamma of eq. 3; attention starts switched off

    def forward(self, images: Tensor) -> Tensor:
        queries = self.query(images).flatten(2)
        # With indices, because without them MPS cannot differentiate twice (R1, WGAN-GP).
        keys = functional.max_pool2d(self.key(images), 2, return_indices=True)[0].flatten(2)
        values = functional.max_pool2d(self.value(images), 2, return_indices=True)[0].flatten(2)
        weights = (queries.transpose(1, 2) @ keys).softmax(dim=2)  # eq. 1, not scaled by the width
        attended = (values @ weights.transpose(1, 2)).unflatten(2, images.shape[2:])
        total: Tensor = images + self.gain * self.out(attended)
        return total


def initialise_without_norm(module: nn.Module) -> None:
    """Initialise a convolution for leaky ReLU as He et al. 2015, for networks without norm."""
    # DCGAN's N(0, 0.02) relies on batch norm to rescale activations. Without it they would shrink
    # from layer to layer.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialise(module: nn.Module) -> None:
    """Initialise a layer as DCGAN: N(0, 0.02), and scales of batch norm N(1, 0.02)."""
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    # `apply` visits children first, so this overwrites what its embeddings got above.
    elif isinstance(module, ConditionalBatchNorm):
        nn.init.normal_(module.scale.weight, 1.0, 0.02)
        nn.init.zeros_(module.shift.weight)

"""Networks whose features are compared, each with the identity that a score's contract states.

Batch norm is folded into the convolutions and the network runs channels-last, which
about doubles the speed on a CPU and changes the features by rounding alone.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aigc_ops.artifacts import Noun
from aigc_ops.devices import Precision, autocast, choose_device, choose_precision
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation import weights
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.tracking import progress_bar

EFFICIENTNET_INPUT_SIZE = 128
INCEPTION_INPUT_SIZE = 299


class ExtractorIdentity(Noun):
    """All that decides the features of an image."""

    name: str
    weights: str
    """SHA-256 (hex) of the file of weights."""
    width: int
    """Features of an image."""
    input_size: int
    """Pixels to which each side is resized."""
    resize: str
    precision: Precision


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features."""

    metric: str
    """What the Fréchet distance of these features is called."""
    identity: ExtractorIdentity
    device: torch.device
    network: Callable[[Tensor], Tensor]
    """(B, 3, H, W) uint8 to (B, width)."""
    batch_size: int

    @torch.inference_mode()
    def features(self, images: Tensor, *, what: str) -> NDArray[np.float32]:
        """Features (N, width) of (N, C, H, W) uint8 images; grey ones count as R = G = B.

        `what` names the images in the progress bar.
        """
        rows = np.empty((len(images), self.identity.width), dtype=np.float32)
        with (
            _exact(self.device),
            progress_bar(total=len(images), desc=f"features of {what}", unit="images") as bar,
        ):
            for start in range(0, len(images), self.batch_size):
                batch = images[start : start + self.batch_size].to(self.device)
                with autocast(self.device, self.identity.precision):
                    features = self.network(batch.expand(-1, 3, -1, -1))
                rows[start : start + len(batch)] = features.float().cpu().numpy()
                bar.update(len(batch))
        return rows


def load_extractor(config: EvaluationConfig) -> Extractor:
    """The configured extractor, its weights checked; raises EvaluationError without them."""
    device = choose_device(config.device)
    if config.extractor == "inception-v3":
        return _inception(config, device)
    if config.inception_weights is not None:
        warnings.warn(
            f"evaluation.inception_weights is ignored: the extractor is {config.extractor}",
            stacklevel=2,
        )
    return _efficientnet(config, device)


def _efficientnet(config: EvaluationConfig, device: torch.device) -> Extractor:
    """EfficientNet-Lite0's pooled features before its classifier (Tan & Le 2019)."""
    size = config.input_size or EFFICIENTNET_INPUT_SIZE
    network = _folded_efficientnet(size).to(device, memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        pixels = functional.interpolate(
            images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        # The Lite networks were trained on (pixels - 127) / 128.
        inputs = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        # The first layers stay in fp32: there bf16 would round faint differences away (31 %
        # off the distance of digits with noise of 5 levels; 1 % so, and as fast).
        first, *others = network._blocks
        with torch.autocast(device.type, enabled=False):
            maps: Tensor = first(network._swish(network._conv_stem(inputs)))
        for block in others:
            maps = block(maps)
        maps = network._swish(network._conv_head(maps))
        return maps.float().mean(dim=(2, 3))

    identity = ExtractorIdentity(
        name=config.extractor,
        weights=weights.EFFICIENTNET_SHA256,
        width=1280,
        input_size=size,
        resize="bilinear-antialiased",
        precision=choose_precision(config.precision, device),
    )
    return Extractor("fd_efficientnet_lite0", identity, device, features, config.batch_size)


def _folded_efficientnet(size: int) -> Any:
    """The network with its ImageNet weights, for inputs of `size` pixels, in eval mode."""
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        # Its padding is fixed by the size of its input, as TensorFlow's "same" would be.
        network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    network.load_state_dict(weights.efficientnet_weights())
    network.eval().requires_grad_(False)
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    return network


def _inception(config: EvaluationConfig, device: torch.device) -> Extractor:
    """The Inception v3 of Heusel et al. 2017, in torch-fidelity's port, at its last pooling."""
    from torch_fidelity.feature_extractor_inceptionv3 import (
        BasicConv2d,
        FeatureExtractorInceptionV3,
    )

    if config.input_size not in (None, INCEPTION_INPUT_SIZE):
        raise EvaluationError(
            f"evaluation.input_size is {config.input_size}, but inception-v3 always sees "
            f"{INCEPTION_INPUT_SIZE} pixels; leave it out"
        )
    with torch.random.fork_rng(devices=[]):
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048"],
            feature_extractor_weights_path=weights.inception_weights(config.inception_weights),
        )
    for module in network.modules():
        if isinstance(module, BasicConv2d):
            _fold(module, "conv", "bn")
    network.to(device, memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        pooled: Tensor = network(images)[0]
        return pooled

    # bf16 moves the value that others report, so only asking for it chooses it.
    precision: Precision = "fp32" if config.precision == "auto" else config.precision
    identity = ExtractorIdentity(
        name=config.extractor,
        weights=weights.INCEPTION_SHA256,
        width=2048,
        input_size=INCEPTION_INPUT_SIZE,
        resize="bilinear-tensorflow1",
        precision=precision,
    )
    return Extractor("fid", identity, device, features, config.batch_size)


def _fold(module: Any, convolution: str, norm: str) -> None:
    """Put a batch norm's scale and shift into the convolution before it."""
    setattr(
        module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
    )
    setattr(module, norm, nn.Identity())


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """On CUDA: convolutions that are the same at every call, and truly fp32 where asked."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield

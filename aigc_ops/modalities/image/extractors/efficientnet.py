"""EfficientNet-Lite0 features, with weights from a package."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.compute.devices import choose_precision
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors import weights
from aigc_ops.modalities.image.extractors.base import (
    PACKAGES,
    Extractor,
    ExtractorIdentity,
    batch_size_on,
    fold_norm,
)

INPUT_SIZE = 128


def load_efficientnet(
    config: ImageEvaluationConfig, settings: EvaluationSettings, device: torch.device
) -> Extractor:
    """Return EfficientNet-Lite0 (Tan & Le 2019), pooled features before its classifier."""
    size = config.input_size or INPUT_SIZE
    network = _folded_efficientnet(size).to(device, memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        pixels = functional.interpolate(
            images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        # The Lite networks were trained on (pixels - 127) / 128.
        inputs = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        # The first layers stay in fp32, because bf16 would round small pixel differences away.
        # The distance of digits with noise of 5 levels is 31 % off in bf16, 1 % off like this,
        # at the same speed.
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
        normalisation="(x - 127) / 128",
        precision=choose_precision(settings.precision, device),
    )
    return Extractor(
        "fd_efficientnet_lite0",
        identity,
        device,
        features,
        batch_size_on(device, settings),
        packages=(*PACKAGES, "efficientnet-lite-pytorch"),
    )


def _folded_efficientnet(size: int) -> Any:
    """Return the network with ImageNet weights for inputs of `size` pixels, in eval mode."""
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        # The padding is fixed for one input size, to reproduce TensorFlow's "same" padding.
        network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    network.load_state_dict(weights.efficientnet_weights())
    network.eval().requires_grad_(False)
    # Names of efficientnet_lite_pytorch's private layers; blocks without expansion lack one.
    fold_norm(network, "_conv_stem", "_bn0")
    fold_norm(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            fold_norm(block, "_expand_conv", "_bn0")
        fold_norm(block, "_depthwise_conv", "_bn1")
        fold_norm(block, "_project_conv", "_bn2")
    return network

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
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aigc_ops.artifacts import Noun
from aigc_ops.devices import (
    Precision,
    autocast,
    choose_device,
    choose_precision,
    give_back_freed_memory,
)
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation import weights
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.tracking import progress_bar

EFFICIENTNET_INPUT_SIZE = 128
BICUBIC = Image.Resampling.BICUBIC
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
    normalisation: str
    """What becomes of the levels x of 0 to 255 before the network, unless it says otherwise."""
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
    classifier: Tensor | None = None
    """(K, width) weights that make class logits of features, for the Inception Score."""

    @torch.inference_mode()
    def features(self, images: Tensor, *, what: str) -> NDArray[np.float32]:
        """Features (N, width) of (N, C, H, W) uint8 images; grey ones count as R = G = B.

        `what` names the images in the progress bar.
        """
        rows = np.empty((len(images), self.identity.width), dtype=np.float32)
        with progress_bar(total=len(images), desc=f"features of {what}", unit="images") as bar:
            for start in range(0, len(images), self.batch_size):
                batch = images[start : start + self.batch_size]
                rows[start : start + len(batch)] = self.features_of(batch)
                bar.update(len(batch))
        return rows

    @torch.inference_mode()
    def features_of(self, batch: Tensor) -> NDArray[np.float32]:
        """Features (B, width) of one batch, (B, C, H, W) uint8."""
        with _exact(self.device), autocast(self.device, self.identity.precision):
            features = self.network(batch.to(self.device).expand(-1, 3, -1, -1))
        rows: NDArray[np.float32] = features.float().cpu().numpy()
        return rows


def load_extractor(config: EvaluationConfig) -> Extractor:
    """The configured extractor, its weights checked; raises EvaluationError without them."""
    device = choose_device(config.device)
    _warn_of_ignored(config)
    if config.extractor == "inception-v3":
        return _inception(config, device)
    if config.extractor == "efficientnet-lite0":
        return _efficientnet(config, device)
    if config.input_size is not None:
        raise EvaluationError(
            f"evaluation.input_size is of efficientnet-lite0, and the extractor is "
            f"{config.extractor}; leave it out"
        )
    if config.extractor == "backbone":
        from aigc_ops.evaluation.backbones import load_backbone

        return load_backbone(config, device)
    from aigc_ops.evaluation.dinov2 import load_dinov2

    return load_dinov2(config, device)


def _warn_of_ignored(config: EvaluationConfig) -> None:
    """Warn of settings that are another extractor's."""
    for name, of in {
        "inception_weights": "inception-v3",
        "inception_resize": "inception-v3",
        "dinov2_weights": "dinov2",
        "backbone": "backbone",
    }.items():
        is_set = getattr(config, name) != EvaluationConfig.model_fields[name].default
        if is_set and not config.extractor.startswith(of):
            warnings.warn(
                f"evaluation.{name} is ignored: the extractor is {config.extractor}", stacklevel=3
            )


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
        normalisation="(x - 127) / 128",
        precision=choose_precision(config.precision, device),
    )
    return Extractor(
        "fd_efficientnet_lite0", identity, device, features, config.batch_size_on(device.type)
    )


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
    digest, content = weights.inception_weights(config.inception_weights)
    with torch.random.fork_rng(devices=[]):
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=content
            )
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise EvaluationError(
                f"{config.inception_weights}: not weights of torch-fidelity's Inception v3 "
                f"({reason}); give a file of its layout"
            ) from error
    for module in network.modules():
        if isinstance(module, BasicConv2d):
            _fold(module, "conv", "bn")
    network.to(device, memory_format=torch.channels_last)
    del content
    give_back_freed_memory()
    trunk = nn.Sequential(*(getattr(network, name) for name in INCEPTION_LAYERS))
    resized = RESIZERS[config.inception_resize]

    def features(images: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            inputs = resized(images).contiguous(memory_format=torch.channels_last)
        maps: Tensor = trunk(inputs)
        # Means rounded to bf16 would move a distance by 2 to 3 %, these by half a percent.
        return maps.float().mean(dim=(2, 3))

    # bf16 moves the value that others report, so only asking for it chooses it.
    precision: Precision = "fp32" if config.precision == "auto" else config.precision
    identity = ExtractorIdentity(
        name=config.extractor,
        weights=digest,
        width=2048,
        input_size=INCEPTION_INPUT_SIZE,
        resize=RESIZE_NAMES[config.inception_resize],
        normalisation="2x / 255 - 1" if config.inception_resize == "legacy" else "(x - 128) / 128",
        precision=precision,
    )
    name = "fid" if digest == weights.INCEPTION_SHA256 else f"fd_inception_v3_{digest[:8]}"
    if config.inception_resize != "tensorflow":
        name = f"{name}_{config.inception_resize}"
    classifier = network.fc.weight.detach().float().cpu()
    return Extractor(
        name, identity, device, features, config.batch_size_on(device.type), classifier
    )


INCEPTION_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    *("Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
TENSORFLOW_RESIZE = "bilinear-tensorflow1"
RESIZE_NAMES = {
    "tensorflow": TENSORFLOW_RESIZE,
    "clean": "bicubic-antialiased-pil",
    "legacy": "bilinear-pytorch",
}


def resized_as_tensorflow(images: Tensor, side: int) -> Tensor:
    """As the reference code of Heusel et al. resizes, and torch-fidelity after it."""
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    found: Tensor = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(side, side), align_corners=False
    )
    return found


def _as_tensorflow(images: Tensor) -> Tensor:
    return (resized_as_tensorflow(images, INCEPTION_INPUT_SIZE) - 128) / 128


def _as_clean_fid(images: Tensor) -> Tensor:
    """As clean-fid resizes (Parmar et al. 2022): Pillow's antialiased bicubic on floats."""
    size = (INCEPTION_INPUT_SIZE, INCEPTION_INPUT_SIZE)
    planes = images.cpu().numpy().astype(np.float32)
    resized = np.stack(
        [[np.asarray(Image.fromarray(plane).resize(size, BICUBIC)) for plane in i] for i in planes]
    ).clip(0, 255)
    return ((torch.from_numpy(resized) - 128) / 128).to(images.device)


def _as_pytorch_fid(images: Tensor) -> Tensor:
    """As pytorch-fid resizes: bilinear, without antialiasing, in [0, 1]."""
    size = (INCEPTION_INPUT_SIZE, INCEPTION_INPUT_SIZE)
    resized = functional.interpolate(
        images.float() / 255, size=size, mode="bilinear", align_corners=False
    )
    return 2 * resized - 1


RESIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensorflow": _as_tensorflow,
    "clean": _as_clean_fid,
    "legacy": _as_pytorch_fid,
}


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

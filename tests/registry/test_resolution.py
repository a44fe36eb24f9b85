"""Models by name and by folder, verified, and the errors for all others."""

import json
import re
import shutil
from pathlib import Path

import pytest

from aigc_ops.core.atomic_dirs import MODEL_JSON, verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError, RegistryError
from aigc_ops.registry.client import connect
from aigc_ops.registry.lookup import version_of
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import STORED_FOLDER, cached, resolve, resolve_version
from aigc_ops.storage.checkpoints import load_model
from tests.registry.conftest import MakeCheckpoint, crown, scores_of, stored_models


def test_a_version_is_found_by_number_and_by_alias(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    version = register(checkpoint, scores_of(checkpoint, 9), name="digits")
    crown(version)
    assert resolve_version("models:/digits@champion") == resolve_version(version.uri) == version
    resolved = resolve("models:/digits@champion")
    assert resolved.manifest_digest == version.manifest_digest
    assert (resolved.family, resolved.step, resolved.rate) == ("gan", 10, 12.5)
    verify_folder(Path(resolved.uri), expected=version.manifest_digest)


def test_a_checkpoint_folder_leads_to_its_version(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    with pytest.raises(RegistryError, match=f"aigc-ops register {checkpoint.uri}"):
        version_of(checkpoint)
    version = register(checkpoint, None, name="digits")
    assert version_of(checkpoint) == version_of(resolve(version.uri)) == version
    register(checkpoint, None, name="numbers")
    with pytest.raises(RegistryError, match="models:/numbers/1, models:/digits/1; give one"):
        version_of(checkpoint)


def test_a_version_is_downloaded_once_and_a_damaged_copy_is_replaced(
    make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    version = register(make_checkpoint(), None, name="digits")
    shutil.rmtree(cached(version.manifest_digest))
    weights = Path(resolve(version.uri).uri) / "model.safetensors"
    whole, inode = weights.read_bytes(), weights.stat().st_ino
    resolve(version.uri)
    assert weights.stat().st_ino == inode
    weights.write_bytes(whole[:-1])
    resolve(version.uri)
    assert weights.read_bytes() == whole
    assert [path.name for path in cached("x").parent.iterdir() if path.is_dir()] == [
        version.manifest_digest
    ]


def test_a_version_damaged_in_the_store_is_never_handed_out(
    make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    version = register(make_checkpoint(), None, name="digits")
    shutil.rmtree(cached(version.manifest_digest))
    (folder,) = stored_models(store)
    (folder / STORED_FOLDER / "extra.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"damaged in MLflow's store: .*extra\.pkl is not in"):
        resolve(version.uri)
    assert not cached(version.manifest_digest).exists()


def test_a_checkpoint_folder_and_its_run_folder_resolve_to_the_newest_whole_step(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint()
    assert resolve(checkpoint.uri) == checkpoint
    run = Path(checkpoint.uri).parent
    assert resolve(str(run)) == checkpoint
    damaged = run / "step-00000020"
    shutil.copytree(checkpoint.uri, damaged)
    (damaged / "model.json").write_text("{}")
    assert resolve(str(run)) == checkpoint
    with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
        resolve(str(damaged))
    shutil.rmtree(checkpoint.uri)
    with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
        resolve(str(run))


def test_an_unknown_model_is_answered_with_the_nearest_name(
    make_checkpoint: MakeCheckpoint,
) -> None:
    with pytest.raises(RegistryError, match=r"so not 'digits' either; `aigc-ops run CONFIG`"):
        resolve("models:/digits@champion")
    register(make_checkpoint(), None, name="digits")
    with pytest.raises(RegistryError, match=r"'digit'; did you mean digits\?"):
        resolve("models:/digit@champion")
    with pytest.raises(RegistryError, match="'zzz'; registered are digits"):
        resolve("models:/zzz/1")


def test_an_absent_version_or_alias_is_answered_with_those_there_are(
    make_checkpoint: MakeCheckpoint,
) -> None:
    register(make_checkpoint(), None, name="digits")
    with pytest.raises(RegistryError, match="has versions 1 and aliases none; `aigc-ops promote"):
        resolve("models:/digits@champion")
    with pytest.raises(RegistryError, match="models:/digits/2 does not exist"):
        resolve("models:/digits/2")


@pytest.mark.parametrize(
    "model",
    [
        "models:/digits",
        "models:/",
        "models:/digits/latest",
        "models:/digits/0",
        "models:/digits/-1",
        "models:/digits/" + "9" * 30,
        "models:/../secret/1",
        "models:/..@champion",
        "models:/dig\0its/1",
        "models:/digits@cham\0pion",
        "models:/\u202edigits/1",
        "models:/" + "x" * 300 + "/1",
        "models:/dig'its/1",
        "runs:/abc/model",
        "digits",
        "no/such/folder",
        "nul\0byte",
        "",
    ],
)
def test_what_names_no_model_is_refused_with_the_right_form(
    model: str, make_checkpoint: MakeCheckpoint
) -> None:
    register(make_checkpoint(), None, name="digits")
    with pytest.raises(RegistryError, match=r"models:/|up to 64 of A-Z"):
        resolve(model)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError, match=r"holds no manifest\.json and no step-"):
        resolve(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"config": {"family": "gan", "sharpness": 3}}, "model.sharpness: Extra inputs"),
        ({"config": {"family": "vae"}}, "model.family: Input should be 'gan'"),
        ({"blueprint": None}, "its blueprint does not describe a gan"),
        ({"blueprint": []}, "its blueprint does not describe a gan"),
    ],
)
def test_a_whole_folder_of_another_making_names_what_does_not_fit(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, changed: dict[str, object], told: str
) -> None:
    folder = Path(make_checkpoint().uri)
    record = json.loads((folder / MODEL_JSON).read_text()) | changed
    weights = (folder / "model.safetensors").read_bytes()

    def fill(partial: Path) -> None:
        (partial / MODEL_JSON).write_text(json.dumps(record))
        (partial / "model.safetensors").write_bytes(weights)

    write_folder(tmp_path / "other", fill)
    with pytest.raises(CheckpointError, match=re.escape(told)):
        load_model(tmp_path / "other")


def test_a_version_of_anothers_making_is_refused() -> None:
    client = connect()
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "/somewhere/pickled")
    with pytest.raises(RegistryError, match="was not registered by aigc-ops"):
        resolve("models:/foreign/1")

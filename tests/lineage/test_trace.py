"""A sample, a Bento or a version is followed back to code, data and decision, or told broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aigc_ops.core.artifacts import BentoTag, ModelVersion
from aigc_ops.core.errors import ModelError, PackagingError, RegistryError
from aigc_ops.core.state_dir import home
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.lineage import trace
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.promotion.packet import write_packet
from aigc_ops.promotion.review import approve
from aigc_ops.registry.aliases import Decision, challenge
from aigc_ops.registry.audit_log import ENTRY_TAG
from aigc_ops.registry.client import connect
from aigc_ops.registry.evidence import CONTENT, evidence_of, store_packet
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import STORED_FOLDER, fetch
from aigc_ops.sampling.files import write_samples
from aigc_ops.sampling.metadata import ModelRef
from aigc_ops.sampling.sampler import generate, requests
from aigc_ops.serving.bento.store import (
    CONFIRMATION,
    Confirmation,
    bento_folder,
    bento_store,
    content_digest,
    model_folder,
)
from aigc_ops.storage.checkpoints import load_model
from tests.conftest import ROOT
from tests.flows.conftest import write_images
from tests.registry.conftest import (
    MakeCheckpoint,
    copy_home,
    empty_database,
    gan_checkpoint,
    home_for_a_copy,
    make_checkpoint,
    scores_of,
    store,
    stored_models,
)

__all__ = ["empty_database", "make_checkpoint", "store"]

FLOW_RUN = "0b5f9a3e-1111-4222-8333-444455556666"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", num=8)


@pytest.fixture(scope="module")
def approved_once(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ModelVersion]:
    """A folder with images, a home, and a champion in it trained on them and approved."""
    root = tmp_path_factory.mktemp("approved") / "made"
    config = DataConfig(path=str(write_images(root / "images", num=8)))
    terms = {"licences": ("CC-BY-4.0",), "sources": ("a museum",)}
    with home_for_a_copy(root, empty_database):
        dataset = open_dataset(config).model_copy(update=terms)
        checkpoint = gan_checkpoint(
            root,
            0,
            dataset_digest=dataset.content_digest,
            dvc_digest=None,
            config={"data": config.model_dump(mode="json")},
        )
        version = register(checkpoint, scores_of(checkpoint, 9), name="digits", dataset=dataset)
        folder = root / "packet"
        ruling = Ruling(outcome="promote", reasons=("surely better",))
        write_packet(folder, evidence_of(version), None, ruling, [], [], PromotionConfig())
        store_packet(version, folder, {"champion": None})
        approve(version, who="Ann", reason="sharper digits", flow_run=FLOW_RUN)
    root.rename(root.with_name("kept"))  # so that what still names the first place is found out
    return root, version


@pytest.fixture
def version(store: Path, tmp_path: Path, approved_once: tuple[Path, ModelVersion]) -> ModelVersion:
    """A champion approved on a packet, trained on images that lie there."""
    root, version = approved_once
    copy_home(root.with_name("kept"), tmp_path, made_in=root)
    return version


@pytest.fixture
def sample(version: ModelVersion, tmp_path: Path) -> Path:
    """A sample of the champion, as `aigc-ops sample` writes it."""
    model = load_model(Path(fetch(version).uri))
    asked = requests(model, 1, seed=7)
    origin = ModelRef(model=version.uri, manifest_digest=version.manifest_digest)
    write_samples(
        find_modality(model.modality),
        generate(model, asked),
        asked,
        tmp_path / "samples",
        origin=origin,
    )
    return tmp_path / "samples" / "00000.png"


@pytest.fixture
def bento(version: ModelVersion) -> Path:
    """A confirmed Bento of the champion, as packaging leaves it, of one file."""
    folder = bento_folder(bento_store(), version, "c" * 64)
    model = model_folder(bento_store(), version)
    for each in (folder, model):
        each.mkdir(parents=True)
        (each / "file.txt").write_text("whole")
    tag = f"{folder.parent.name}:{folder.name}"
    found = BentoTag(tag=tag, model=version, uri=str(folder), num_golden=8, max_levels_apart=1)
    proof = Confirmation(
        bento=found, code_digest="c" * 64, content_digest=content_digest(folder, model)
    )
    (folder / CONFIRMATION).write_text(proof.model_dump_json())
    return folder


def states(ref: object) -> dict[str, str]:
    return {link.name: link.state for link in trace(str(ref)).links}


def details(ref: object) -> dict[str, dict[str, Any]]:
    return {link.name: dict(link.details) for link in trace(str(ref)).links}


WHOLE = {
    "bento": "absent",
    "version": "holds",
    "decision": "holds",
    "scores": "holds",
    "run": "holds",
    "flow run": "holds",
    "commit": "holds",
    "data": "holds",
    "licences": "holds",
}


def test_a_sample_is_followed_to_its_data_and_whoever_approved_its_model(
    sample: Path, version: ModelVersion
) -> None:
    assert states(sample) == {"sample": "holds", **WHOLE}
    found = details(sample)
    assert (found["sample"]["seed"], found["sample"]["model"]) == (7, version.uri)
    assert found["version"]["uri"] == version.uri
    assert found["version"]["aliases"] == ["champion"]
    [entry] = found["decision"]["entries"]
    assert (entry["who"], entry["reason"], entry["gate"]) == ("Ann", "sharper digits", "promote")
    assert entry["packet_digest"]
    assert found["scores"]["values"]["fd"]["value"] == 9
    assert found["run"]["run_id"] == version.run_id
    assert found["flow run"]["flow_runs"] == [FLOW_RUN]
    assert found["commit"] == {"commit": "a" * 40, "uncommitted_changes": "b" * 64}
    assert found["data"]["dvc_digest"] is None
    assert found["licences"] == {"licences": ["CC-BY-4.0"], "sources": ["a museum"]}
    assert trace(str(sample)).broken == ()


def test_every_kind_of_reference_leads_to_the_version(
    sample: Path, version: ModelVersion, bento: Path, images: Path
) -> None:
    dataset = open_dataset(DataConfig(path=str(images))).content_digest
    for ref in (
        sample,
        sample.parent / "samples.jsonl",
        "models:/digits/1",
        "models:/digits@champion",
        f"digits:{bento.name}",
        dataset,
        version.manifest_digest,
        version.run_id,
        FLOW_RUN,
    ):
        found = trace(str(ref))
        assert found.broken == ()
        assert {link.name: link.details for link in found.links}["version"]["uri"] == version.uri


def test_several_versions_of_one_dataset_are_told_the_champion_first(
    version: ModelVersion, make_checkpoint: MakeCheckpoint, images: Path
) -> None:
    dataset = open_dataset(DataConfig(path=str(images)))
    other = make_checkpoint(1, dataset_digest=dataset.content_digest, dvc_digest=None)
    register(other, None, name="other", dataset=dataset)
    found = trace(dataset.content_digest)
    assert found.others == ("models:/other/1",)
    assert details(dataset.content_digest)["version"]["uri"] == version.uri


def test_what_legitimately_is_not_there_is_told_and_not_broken(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint(dvc_digest=None, revision=None)
    version = register(checkpoint, None, name="digits")
    found = trace(version.uri)
    assert found.broken == ()
    assert {name for name, state in states(version.uri).items() if state == "absent"} == {
        *("bento", "decision", "scores", "flow run", "commit", "licences")
    }


def test_a_run_without_a_version_is_followed_to_its_data(images: Path) -> None:
    from aigc_ops.registry.tracker.tracker import MlflowTracker

    dataset = open_dataset(DataConfig(path=str(images)))
    with MlflowTracker.start("key", "a run", dataset=dataset) as tracker:
        run_id = str(tracker.run_id)
    assert states(run_id) == {
        "version": "absent",
        "run": "holds",
        "commit": "absent",
        "data": "holds",
        "licences": "absent",
    }


def broken(ref: object) -> tuple[str, ...]:
    return trace(str(ref)).broken


def test_a_deleted_version_breaks_the_line_of_its_samples_and_the_rest_is_still_told(
    sample: Path, version: ModelVersion
) -> None:
    connect().delete_model_version("digits", "1")
    for ref in (sample, version.uri):
        assert any("version: models:/digits/1 was deleted" in each for each in broken(ref))
    found = details(sample)
    assert found["decision"]["entries"][0]["who"] == "Ann"
    assert found["commit"]["commit"] == "a" * 40  # from the copy that this home keeps


def test_changed_weights_in_the_store_break_the_line(version: ModelVersion, store: Path) -> None:
    [stored] = stored_models(store)
    weights = stored / STORED_FOLDER / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (problem,) = broken(version.uri)
    assert problem.startswith("version: ")
    assert "model.safetensors is damaged" in problem


def test_an_entry_that_is_gone_or_was_changed_breaks_the_line(version: ModelVersion) -> None:
    client, key = connect(), f"{ENTRY_TAG}000001"
    text = client.get_registered_model("digits").tags[key]
    client.set_registered_model_tag("digits", key, text.replace("Ann", "Bob"))
    assert any("decision: " in each and "which is gone" in each for each in broken(version.uri))
    client.delete_registered_model_tag("digits", key)
    assert any("1 entries were written, 0 are here" in each for each in broken(version.uri))


def test_an_alias_moved_by_hand_breaks_the_line(version: ModelVersion) -> None:
    connect().delete_registered_model_alias("digits", "champion")
    (problem,) = broken(version.uri)
    assert "champion was moved outside aigc-ops: it names nothing" in problem


def test_a_changed_packet_breaks_the_line_whatever_this_home_keeps(version: ModelVersion) -> None:
    [stored] = (home() / "mlflow").rglob(CONTENT)
    stored.write_text(stored.read_text().replace('"surely better"', '"surely worse"'))
    (problem,) = broken(version.uri)
    assert problem.startswith("decision: the review packet of models:/digits/1 was changed")


def test_a_packet_of_other_files_breaks_the_line(version: ModelVersion, tmp_path: Path) -> None:
    content = json.loads((tmp_path / "packet" / CONTENT).read_text())
    content["candidate"]["manifest_digest"] = "f" * 64
    (tmp_path / "packet" / CONTENT).write_text(json.dumps(content))
    digest = store_packet(version, tmp_path / "packet", {"champion": 1})
    challenge(version, Decision(who="Bob", reason="as I saw", packet_digest=digest))
    (problem,) = broken(version.uri)
    assert "made of files with the manifest ffffffffffff" in problem


def test_a_deleted_run_breaks_the_line(version: ModelVersion) -> None:
    connect().delete_run(version.run_id)
    (problem,) = broken(version.run_id)
    assert problem.startswith(f"run: {version.run_id} was deleted")


def test_changed_tags_are_held_against_the_stored_files(version: ModelVersion) -> None:
    client = connect()
    tags = client.get_model_version("digits", "1").tags
    scores = tags["aigc_ops.scores"].replace('"checkpoint_digest":"', '"checkpoint_digest":"0')
    for tag, value in (("git_commit", "e" * 40), ("dataset_digest", "e" * 64), ("scores", scores)):
        client.set_model_version_tag("digits", "1", f"aigc_ops.{tag}", value)
    found = [each.partition(":")[0] for each in broken(version.uri)]
    assert found == ["scores", "commit", "data"]


def test_a_bento_that_is_gone_changed_or_unconfirmed_breaks_its_line(
    version: ModelVersion, bento: Path
) -> None:
    tag = f"digits:{bento.name}"
    assert states(version.uri)["bento"] == "holds"
    (bento / "file.txt").write_text("changed")
    assert "was changed after it was confirmed" in broken(version.uri)[0]
    assert "was changed after it was confirmed" in broken(tag)[0]
    shutil.rmtree(bento)
    with pytest.raises(PackagingError, match=f"no Bento {tag} is in BentoML's store"):
        trace(tag)
    assert states(version.uri)["bento"] == "absent"  # no run of this home recorded it


def test_data_that_changed_breaks_the_line_and_data_that_is_elsewhere_does_not(
    version: ModelVersion, images: Path
) -> None:
    one = next(images.rglob("*.png"))
    one.write_bytes(one.read_bytes() + b"\0")
    (problem,) = broken(version.uri)
    assert "holds other data now" in problem
    shutil.rmtree(images)
    found = trace(version.uri)
    assert found.broken == ()
    assert any("not on this machine" in link.message for link in found.links)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nothing", "nothing can't be traced; give a sample's file"),
        ("a\0b", r"a\\x00b can't be traced"),
        ("d" * 64, "no version was trained on data with the digest dddddddddddd"),
        ("d" * 32, "MLflow holds no run"),
        (FLOW_RUN, "no decision on a version names the flow run"),
        ("models:/nobody/1", "no model is registered"),
    ],
)
def test_what_leads_nowhere_says_so(ref: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        trace(ref)


def test_an_image_without_an_origin_says_so(images: Path) -> None:
    with pytest.raises(ModelError, match="cannot determine which model generated this"):
        trace(str(next(images.rglob("*.png"))))


def test_the_command_answers_without_torch_and_exits_with_1_when_a_link_is_broken(
    version: ModelVersion,
) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'prefect', 'bentoml']))\n"
        "from aigc_ops.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "trace", version.uri]
    connect().delete_run(version.run_id)
    environment = {**os.environ, "AIGC_OPS_HOME": str(home())}
    done = subprocess.run(
        [*command, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert [link["name"] for link in answer["links"]] == list(WHOLE)
    assert len(answer["broken"]) == 1

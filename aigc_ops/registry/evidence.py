"""What the store tells of a version for its review, and the review packet that it keeps."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aigc_ops.core.artifacts import DatasetRef, ModelVersion, Noun, Scores, file_digest
from aigc_ops.core.atomic_dirs import read_provenance
from aigc_ops.core.errors import DecisionError, RegistryError
from aigc_ops.core.state_dir import home
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.resolution import fetch
from aigc_ops.registry.tracker.tracker import read_curves
from aigc_ops.registry.versions import PACKET_TAG, find, read_scores

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE, CONTENT = "packet.html", "packet.json"
BASIS_TAG = "aigc_ops.packet_basis"
"""What a packet was made on: champion, scores and settings. Another basis needs another packet."""


class Evidence(Noun):
    """A version's own record: how it was made, and what was measured."""

    version: ModelVersion
    scores: Scores | None
    provenance: dict[str, Any]
    started: int | None = Field(description="Of the training run, milliseconds since 1970.")
    seconds: float | None = Field(description="The training run's duration.")
    dataset: dict[str, Any] = Field(description="Rows, digests, licences and sources of its data.")
    num_bytes: int = Field(description="Of the weights.")


class StoredPacket(Noun):
    """A packet that a version keeps in the store."""

    version: ModelVersion
    champion: int | None = Field(description="The champion that the version was compared with.")
    packet_digest: str = Field(description="SHA-256 of packet.json, which names the page's.")
    folder: str = Field(description="Local folder of both files, checked.")
    content: dict[str, Any]


def evidence_of(version: ModelVersion) -> Evidence:
    """The version's record, from its stored files and its run; its files are checked."""
    client = connect()
    entity = find(client, version.name, version=version.version)
    if entity is None:
        raise RegistryError(f"{version.uri} does not exist; `aigc-ops models` lists what there is")
    checkpoint = fetch(version)
    folder = Path(checkpoint.uri)
    run = run_of(version.run_id)
    began, ended = (run.info.start_time, run.info.end_time) if run else (None, None)
    return Evidence(
        version=version,
        scores=read_scores(entity.tags),
        provenance=read_provenance(folder),
        started=began,
        seconds=(ended - began) / 1000 if began and ended else None,
        dataset=dataset_of(run),
        num_bytes=sum(each.stat().st_size for each in folder.glob("*.safetensors")),
    )


def curves_of(version: ModelVersion) -> Mapping[str, Sequence[tuple[int, float]]]:
    """The metrics of the version's run over its steps."""
    return read_curves(connect(), version.run_id)


def store_packet(version: ModelVersion, folder: Path, basis: Mapping[str, Any]) -> str:
    """Keep a packet with the version; its digest. The version's tag names the latest."""
    digest = file_digest(folder / CONTENT)
    client = connect()
    with faults(f"storing the review packet of {version.uri}"):
        for name in (PAGE, CONTENT):
            client.log_artifact(version.run_id, str(folder / name), packet_place(digest))
        number = str(version.version)
        client.set_model_version_tag(version.name, number, PACKET_TAG, digest)
        record = json.dumps({**basis, "digest": digest}, sort_keys=True)
        client.set_model_version_tag(version.name, number, BASIS_TAG, record)
    return digest


def basis_of(version: ModelVersion) -> dict[str, Any]:
    """What the version's packet was made on; empty when it has none."""
    entity = find(connect(), version.name, version=version.version)
    stored = entity.tags.get(BASIS_TAG) if entity else None
    return dict(json.loads(stored)) if stored else {}


def read_packet(version: ModelVersion) -> StoredPacket:
    """The version's packet, fetched and checked against its digest.

    Raises DecisionError when the version has none, RegistryError when it was changed.
    """
    basis = basis_of(version)
    if not basis:
        raise DecisionError(
            f"{version.uri} has no review packet; `aigc-ops promote {version.uri}` makes one"
        )
    digest = str(basis["digest"])
    folder = home() / "packets" / digest
    if not _is_whole(folder, digest):
        _download(version, digest, folder)
    return StoredPacket(
        version=version,
        champion=basis["champion"],
        packet_digest=digest,
        folder=str(folder),
        content=_content(folder),
    )


def packet_in_store(version: ModelVersion, digest: str) -> dict[str, Any]:
    """What the packet of this digest says, read from the store whatever lies in the home.

    Raises RegistryError when it is gone or was changed.
    """
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packet-", dir=home()) as name:
        folder = Path(name)
        _download(version, digest, folder)
        return _content(folder)


def _download(version: ModelVersion, digest: str, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True, exist_ok=True)
    with faults(f"reading the review packet of {version.uri}"):
        for name in (PAGE, CONTENT):
            download_artifacts(
                run_id=version.run_id,
                artifact_path=f"{packet_place(digest)}/{name}",
                dst_path=str(folder),
            )
            stray = folder / packet_place(digest) / name  # some stores keep the folders above
            if stray.exists():
                stray.replace(folder / name)
    if not _is_whole(folder, digest):
        raise RegistryError(
            f"the review packet of {version.uri} was changed in the store: its digest is not "
            f"{digest[:12]}; `aigc-ops promote {version.uri}` makes it anew"
        )


def _content(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONTENT).read_text(encoding="utf-8")))


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        if file_digest(folder / CONTENT) != digest:
            return False
        content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
        return bool(file_digest(folder / PAGE) == content["page_sha256"])
    except (OSError, ValueError, KeyError):
        return False


def packet_place(digest: str) -> str:
    """The folder of a packet among its run's artifacts."""
    return f"review/{digest[:12]}"


def run_of(run_id: str) -> "Run | None":
    """MLflow's record of a run, None when the store lacks it."""
    from mlflow.exceptions import MlflowException

    with faults(f"reading run {run_id}"):
        try:
            return connect().get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return None


def dataset_of(run: "Run | None") -> dict[str, Any]:
    """The dataset as its run recorded it."""
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    if not inputs:
        return {}
    record = json.loads(inputs[0].dataset.profile or "{}")
    known = set(DatasetRef.model_fields)
    return {key: value for key, value in record.items() if key in known}

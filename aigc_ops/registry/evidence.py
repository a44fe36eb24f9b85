"""Loads the evidence for the review of a version, and stores its review packet."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aigc_ops.core.artifacts import DatasetRef, ModelVersion, Record, Scores, file_digest
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
"""Champion, settings and digest of the latest packet; another basis needs another packet."""


class Evidence(Record):
    """The record of a version: its training, data and scores."""

    version: ModelVersion
    scores: Scores | None
    provenance: dict[str, Any]
    started: int | None = Field(description="Start of the training run, milliseconds since 1970.")
    seconds: float | None = Field(description="Duration of the training run.")
    dataset: dict[str, Any] = Field(description="Rows, digests, licences and sources of its data.")
    num_bytes: int = Field(description="Size of the weights.")


class StoredPacket(Record):
    """A review packet of a version, downloaded and verified."""

    version: ModelVersion
    champion: int | None = Field(description="The champion that the version was compared with.")
    packet_digest: str = Field(description="SHA-256 of packet.json, which contains the page's.")
    folder: str = Field(description="Local folder of both files.")
    content: dict[str, Any]


def evidence_of(version: ModelVersion) -> Evidence:
    """Return the version's record, from its run and its stored files, which are verified."""
    client = connect()
    entity = find(client, version.name, version=version.version)
    if entity is None:
        raise RegistryError(f"{version.uri} does not exist; `aigc-ops models` lists all versions")
    checkpoint = fetch(version)
    folder = Path(checkpoint.uri)
    run = run_of(version.run_id)
    # The run may be gone, or still be open: the review shows no duration then.
    start, end = (run.info.start_time, run.info.end_time) if run else (None, None)
    return Evidence(
        version=version,
        scores=read_scores(entity.tags),
        provenance=read_provenance(folder),
        started=start,
        seconds=(end - start) / 1000 if start and end else None,
        dataset=dataset_of(run),
        num_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


def curves_of(version: ModelVersion) -> Mapping[str, Sequence[tuple[int, float]]]:
    """Return the metrics of the version's run as (step, value) pairs."""
    return read_curves(connect(), version.run_id)


def store_packet(version: ModelVersion, folder: Path, basis: Mapping[str, Any]) -> str:
    """Upload a packet to the version's run and return its digest."""
    # By digest, so that packets of earlier decisions remain: the audit log refers to them.
    digest = file_digest(folder / CONTENT)
    client = connect()
    with faults(f"storing the review packet of {version.uri}"):
        for name in (PAGE, CONTENT):
            client.log_artifact(version.run_id, str(folder / name), packet_folder(digest))
        # The basis is last: `basis_of` never refers to a packet that is not complete in the store.
        number = str(version.version)
        client.set_model_version_tag(version.name, number, PACKET_TAG, digest)
        record = json.dumps({**basis, "digest": digest}, sort_keys=True)
        client.set_model_version_tag(version.name, number, BASIS_TAG, record)
    return digest


def basis_of(version: ModelVersion) -> dict[str, Any]:
    """Return the basis of the version's latest packet; empty without one."""
    entity = find(connect(), version.name, version=version.version)
    stored = entity.tags.get(BASIS_TAG) if entity else None
    return dict(json.loads(stored)) if stored else {}


def read_packet(version: ModelVersion) -> StoredPacket:
    """Return the version's latest packet, downloaded if needed and verified by its digest.

    Raises DecisionError if the version has none, RegistryError if it was changed.
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
    """Return the content of a packet, read from the store instead of the cache.

    Raises RegistryError if it is missing or was changed.
    """
    # A lineage must show what others see. An intact cached copy would hide damage in the store.
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
                artifact_path=f"{packet_folder(digest)}/{name}",
                dst_path=str(folder),
            )
            # Some artifact stores recreate the artifact's folders below `dst_path`, others do not.
            nested = folder / packet_folder(digest) / name
            if nested.exists():
                nested.replace(folder / name)
    if not _is_whole(folder, digest):
        raise RegistryError(
            f"the review packet of {version.uri} was changed in the store: its digest is not "
            f"{digest[:12]}; `aigc-ops promote {version.uri}` makes another one"
        )


def _content(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / CONTENT).read_text(encoding="utf-8")))


def _is_whole(folder: Path, digest: str) -> bool:
    """Return whether both files of a packet are there and match its digest."""
    try:
        if file_digest(folder / CONTENT) != digest:
            return False
        content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
        return bool(file_digest(folder / PAGE) == content["page_sha256"])
    except (OSError, ValueError, KeyError):
        return False


def packet_folder(digest: str) -> str:
    """Return the folder of a packet among its run's artifacts."""
    return f"review/{digest[:12]}"


def run_of(run_id: str) -> "Run | None":
    """Return MLflow's record of a run, None if the store does not have it."""
    from mlflow.exceptions import MlflowException

    with faults(f"reading run {run_id}"):
        try:
            return connect().get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return None


def dataset_of(run: "Run | None") -> dict[str, Any]:
    """Return the dataset as its run recorded it, by the fields of DatasetRef."""
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    if not inputs:
        return {}
    record = json.loads(inputs[0].dataset.profile or "{}")
    # A later version of aigc-ops may have recorded fields that this one does not know.
    known = set(DatasetRef.model_fields)
    return {key: value for key, value in record.items() if key in known}

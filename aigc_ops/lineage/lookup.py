"""Resolves a reference of any kind to a version or a run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import PackagingError, RegistryError
from aigc_ops.core.escaping import printable
from aigc_ops.pipeline import run_cache
from aigc_ops.registry import lookup
from aigc_ops.registry.audit_log import audit
from aigc_ops.registry.resolution import MODEL_URI, SCHEME, resolve_version
from aigc_ops.registry.versions import (
    CHECKPOINT_TAG,
    DATASET_TAG,
    FLOW_RUN_TAG,
    MANIFEST_TAG,
)
from aigc_ops.sampling.metadata import DIGEST, SampleMetadata, read_sample_metadata
from aigc_ops.serving.bento.store import labelled_version, read_confirmation, tagged_folder

RUN = re.compile(r"[0-9a-f]{32}")
FLOW_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BENTO = re.compile(r"[a-z0-9][a-z0-9._-]*:[A-Za-z0-9][\w.-]*")
UNKNOWN = ""
"""Manifest digest or run of a deleted version whose record is not on this machine."""


@dataclass(frozen=True)
class Target:
    """The version or run behind a reference, and the parts of the reference itself."""

    version: ModelVersion | None = None
    """As it was recorded; it may have been deleted from the registry."""
    others: Sequence[ModelVersion] = ()
    run_id: str | None = None
    flow_run: str | None = None
    bento: str | None = None
    sample: Path | None = None
    note: SampleMetadata | None = None


def find(ref: str) -> Target:
    """Return the target of a reference; raises an AigcOpsError when it has none.

    A reference is a sample's file, a model URI, a Bento's tag, or an identifier: 64 hex digits for
    a digest, 32 for an MLflow run, a UUID for a Prefect flow run.
    """
    # Files come first: a sample's name may look like a Bento's tag. Path.is_file raises OSError for
    # texts that are longer than any path.
    if "\0" not in ref and len(ref) < 4096 and Path(ref).is_file():
        return _sample(Path(ref))
    if ref.startswith(SCHEME):
        return Target(version=_version(ref))
    if re.fullmatch(DIGEST, ref):
        return _digest(ref)
    if RUN.fullmatch(ref):
        return _run(ref)
    if FLOW_RUN.fullmatch(ref):
        return _flow_run(ref)
    if BENTO.fullmatch(ref):
        return Target(version=_packaged(ref), bento=ref)
    raise RegistryError(
        f"{printable(ref)} can't be traced; give a sample's file, models:/NAME/3, "
        "models:/NAME@champion, a Bento's tag (NAME:VERSION), a dataset's digest (64 hex digits), "
        "an MLflow run (32) or a Prefect flow run (a UUID)"
    )


def _sample(path: Path) -> Target:
    note = read_sample_metadata(path)
    digest = note.manifest_digest
    versions = lookup.tagged(MANIFEST_TAG, digest) or lookup.tagged(CHECKPOINT_TAG, digest)
    # Equal weights may be registered under several names: the one that generated the sample is
    # first, so that it is the one whose decision and Bento are shown.
    named = [version for version in versions if version.uri == note.model]
    versions = named + [version for version in versions if version not in named]
    if versions:
        return Target(version=versions[0], others=versions[1:], sample=path, note=note)
    # The version was deleted: its number and digest still lead to the audit log and to the cache.
    match = MODEL_URI.fullmatch(note.model or "")
    number = match["version"] if match else None
    gone = _gone(match["name"], int(number), digest) if match and number else None
    return Target(version=gone, sample=path, note=note)


def _version(uri: str) -> ModelVersion:
    try:
        return resolve_version(uri)
    except RegistryError:
        match = MODEL_URI.fullmatch(uri)
        number = match["version"] if match else None
        if not (match and number and number.isdecimal()):
            raise
        gone = _gone(match["name"], int(number), UNKNOWN)
        # Without a record or a decision nothing shows that this version ever existed: a typing
        # error must raise instead of printing a lineage of broken links.
        if gone.manifest_digest == UNKNOWN and gone.version not in _decided(gone.name):
            raise
        return gone


def _gone(name: str, number: int, digest: str) -> ModelVersion:
    """Return a deleted version, from this machine's records of finished runs where they have it."""
    for record in run_cache.list_runs():
        known = record.result.version
        # Where the digest is known it must agree: a model that was deleted and registered again
        # counts its versions from 1 once more.
        is_same = digest in (UNKNOWN, known.manifest_digest)
        if is_same and (known.name, known.version) == (name, number):
            return known
    return ModelVersion(name=name, version=number, run_id=UNKNOWN, manifest_digest=digest)


def _decided(name: str) -> set[int]:
    """Return the numbers of the versions in the audit log of a model."""
    try:
        return {entry.version for entry in audit(name).entries}
    except RegistryError:
        return set()


def _digest(digest: str) -> Target:
    # A digest does not say what it is of. Datasets come first: they lead to several versions.
    for tag in (DATASET_TAG, MANIFEST_TAG, CHECKPOINT_TAG):
        if versions := lookup.tagged(tag, digest):
            return Target(version=versions[0], others=versions[1:])
    raise RegistryError(
        f"no version was trained on data with the digest {digest[:12]}, and it is not the digest "
        "of a model; `aigc-ops data show PATH` prints a dataset's digest"
    )


def _run(run_id: str) -> Target:
    versions = lookup.of_run(run_id)
    if versions:
        return Target(version=versions[0], others=versions[1:], run_id=run_id)
    # A run may have no version yet, or may have failed: it is traced by itself.
    if lookup.lookup_run(run_id) is None:
        raise RegistryError(f"MLflow holds no run {run_id}, and no version names it")
    return Target(run_id=run_id)


def _flow_run(flow_run: str) -> Target:
    # A version's tag names only the flow run of its latest decision. The audit logs name all.
    versions = lookup.tagged(FLOW_RUN_TAG, flow_run)
    for name, number in lookup.decided_in(flow_run):
        if (name, number) not in [(known.name, known.version) for known in versions]:
            versions.append(_version(f"{SCHEME}{name}/{number}"))
    if not versions:
        raise RegistryError(f"no decision on a version names the flow run {flow_run}")
    return Target(version=versions[0], others=versions[1:], flow_run=flow_run)


def _packaged(tag: str) -> ModelVersion:
    """Return the version in a Bento: by its confirmation, its labels, or a run that recorded it."""
    folder = tagged_folder(tag)
    proof = read_confirmation(folder)
    if version := proof.bento.model if proof else labelled_version(folder):
        return version
    for record in run_cache.list_runs():
        if record.result.bento and record.result.bento.tag == tag:
            return record.result.bento.model
    raise PackagingError(
        f"no Bento {tag} is in BentoML's store ({folder.parents[2]}), and no run recorded one; "
        "its samples, or models:/NAME/N, can be traced instead"
    )

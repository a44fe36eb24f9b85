"""What a reference is, and the version or run that it leads to."""

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
from aigc_ops.sampling.metadata import DIGEST, Note, read_note
from aigc_ops.serving.bento.store import confirmation, labelled_version, tagged_folder

RUN = re.compile(r"[0-9a-f]{32}")
FLOW_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BENTO = re.compile(r"[a-z0-9][a-z0-9._-]*:[A-Za-z0-9][\w.-]*")
UNKNOWN = ""
"""Digest and run of a version that was deleted before either was asked for."""


@dataclass(frozen=True)
class Found:
    """What a reference led to."""

    version: ModelVersion | None = None
    """As it was recorded; the registry may hold it no more."""
    others: Sequence[ModelVersion] = ()
    run_id: str | None = None
    flow_run: str | None = None
    bento: str | None = None
    sample: Path | None = None
    note: Note | None = None


def find(ref: str) -> Found:
    """What a reference led to; raises an AigcOpsError when it is none, or leads nowhere."""
    if "\0" not in ref and len(ref) < 4096 and Path(ref).is_file():
        return _sample(Path(ref))
    if ref.startswith(SCHEME):
        return Found(version=_version(ref))
    if re.fullmatch(DIGEST, ref):
        return _digest(ref)
    if RUN.fullmatch(ref):
        return _run(ref)
    if FLOW_RUN.fullmatch(ref):
        return _flow_run(ref)
    if BENTO.fullmatch(ref):
        return Found(version=_packaged(ref), bento=ref)
    raise RegistryError(
        f"{printable(ref)} can't be traced; give a sample's file, models:/NAME/3, "
        "models:/NAME@champion, a Bento's tag (NAME:VERSION), a dataset's digest (64 hex digits), "
        "an MLflow run (32) or a Prefect flow run (a UUID)"
    )


def _sample(path: Path) -> Found:
    note = read_note(path)
    digest = note.manifest_digest
    versions = lookup.tagged(MANIFEST_TAG, digest) or lookup.tagged(CHECKPOINT_TAG, digest)
    named = [version for version in versions if version.uri == note.model]
    versions = named + [version for version in versions if version not in named]
    if versions:
        return Found(version=versions[0], others=versions[1:], sample=path, note=note)
    match = MODEL_URI.fullmatch(note.model or "")
    number = match["version"] if match else None
    gone = _gone(match["name"], int(number), digest) if match and number else None
    return Found(version=gone, sample=path, note=note)


def _version(uri: str) -> ModelVersion:
    try:
        return resolve_version(uri)
    except RegistryError:
        match = MODEL_URI.fullmatch(uri)
        number = match["version"] if match else None
        if not (match and number and number.isdecimal()):
            raise
        gone = _gone(match["name"], int(number), UNKNOWN)
        if gone.manifest_digest == UNKNOWN and gone.version not in _decided(gone.name):
            raise
        return gone


def _gone(name: str, number: int, digest: str) -> ModelVersion:
    """A version that the registry holds no more, as this home's records tell it."""
    for record in run_cache.kept():
        known = record.result.version
        is_same = digest in (UNKNOWN, known.manifest_digest)
        if is_same and (known.name, known.version) == (name, number):
            return known
    return ModelVersion(name=name, version=number, run_id=UNKNOWN, manifest_digest=digest)


def _decided(name: str) -> set[int]:
    """Numbers of the versions that the audit log of a model speaks of."""
    try:
        return {entry.version for entry in audit(name).entries}
    except RegistryError:
        return set()


def _digest(digest: str) -> Found:
    for tag in (DATASET_TAG, MANIFEST_TAG, CHECKPOINT_TAG):
        if versions := lookup.tagged(tag, digest):
            return Found(version=versions[0], others=versions[1:])
    raise RegistryError(
        f"no version was trained on data with the digest {digest[:12]}, nor is it a model's own; "
        "`aigc-ops data show PATH` tells a dataset's digest"
    )


def _run(run_id: str) -> Found:
    versions = lookup.of_run(run_id)
    if versions:
        return Found(version=versions[0], others=versions[1:], run_id=run_id)
    if lookup.held_run(run_id) is None:
        raise RegistryError(f"MLflow holds no run {run_id}, and no version names it")
    return Found(run_id=run_id)


def _flow_run(flow_run: str) -> Found:
    versions = lookup.tagged(FLOW_RUN_TAG, flow_run)
    for name, number in lookup.decided_in(flow_run):
        if (name, number) not in [(each.name, each.version) for each in versions]:
            versions.append(_version(f"{SCHEME}{name}/{number}"))
    if not versions:
        raise RegistryError(f"no decision on a version names the flow run {flow_run}")
    return Found(version=versions[0], others=versions[1:], flow_run=flow_run)


def _packaged(tag: str) -> ModelVersion:
    folder = tagged_folder(tag)
    proof = confirmation(folder)
    if version := proof.bento.model if proof else labelled_version(folder):
        return version
    for record in run_cache.kept():
        if record.result.bento and record.result.bento.tag == tag:
            return record.result.bento.model
    raise PackagingError(
        f"no Bento {tag} is in BentoML's store ({folder.parents[2]}), and no run recorded one; "
        "its samples, or models:/NAME/N, can be traced instead"
    )

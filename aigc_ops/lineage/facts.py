"""All records behind a reference, read from the stores once for every check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.atomic_dirs import read_provenance, verify_folder
from aigc_ops.core.errors import AigcOpsError, CheckpointError, RegistryError
from aigc_ops.lineage.lookup import UNKNOWN, Target
from aigc_ops.registry.audit_log import Audit, Entry, audit
from aigc_ops.registry.evidence import packet_in_store
from aigc_ops.registry.lookup import (
    RegisteredRun,
    RegisteredVersion,
    lookup_run,
    lookup_version,
)
from aigc_ops.registry.resolution import cached, stored_provenance


@dataclass(frozen=True)
class Facts:
    """The records behind a reference, and the faults that reading them showed."""

    target: Target
    registered: RegisteredVersion | None = None
    damage: str | None = None
    """Why the version's stored files are not what was registered."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Training's own record, from files that match their manifest; empty without them."""
    run_id: str | None = None
    run: RegisteredRun | None = None
    log: Audit | None = None
    log_fault: str | None = None
    entries: tuple[Entry, ...] = ()
    """The log's entries on this version."""
    packet: Mapping[str, Any] = field(default_factory=dict)
    packet_fault: str | None = None

    @classmethod
    def of(cls, target: Target) -> Self:
        """Return the records behind the target of a reference."""
        version = target.version
        if version is None:
            run = lookup_run(target.run_id) if target.run_id else None
            return cls(target, run_id=target.run_id, run=run)
        registered = lookup_version(version)
        damage, provenance = _provenance(version, registered)
        # A version that was deleted before its run was looked up has an empty run_id. Its stored
        # files, where a copy is cached, still name the run.
        run_id = target.run_id or version.run_id or provenance.get("run_id")
        log, log_fault = _log(version)
        entries = tuple(e for e in log.entries if e.version == version.version) if log else ()
        packet, packet_fault = _packet(version, entries)
        return cls(
            target,
            registered=registered,
            damage=damage,
            provenance=provenance,
            run_id=run_id,
            run=lookup_run(run_id) if run_id else None,
            log=log,
            log_fault=log_fault,
            entries=entries,
            packet=packet,
            packet_fault=packet_fault,
        )

    @property
    def version(self) -> ModelVersion | None:
        """Return the version, as it was recorded."""
        return self.target.version

    @property
    def tags(self) -> Mapping[str, str]:
        """Return the version's tags, or the run's where there is no version."""
        if self.registered:
            return self.registered.tags
        return self.run.tags if self.run else {}


def _provenance(
    version: ModelVersion, registered: RegisteredVersion | None
) -> tuple[str | None, Mapping[str, Any]]:
    """Return the damage to the stored files, if any, and the verified provenance."""
    damage = None
    # 1. The store's copy counts, even where the cache has one: a check of the cache alone would
    #    miss damage in the store.
    if registered:
        try:
            return None, stored_provenance(version)
        except AigcOpsError as error:
            damage = str(error)
    # 2. Without it, this machine's cached copy may still say how the model was trained. It is
    #    trusted only if it matches the manifest digest.
    folder = cached(version.manifest_digest)
    try:
        if version.manifest_digest != UNKNOWN:
            verify_folder(folder, expected=version.manifest_digest)
            return damage, read_provenance(folder)
    except CheckpointError:
        pass
    return damage, {}


def _log(version: ModelVersion) -> tuple[Audit | None, str | None]:
    try:
        return audit(version.name), None
    # A model that was deleted took its log with it; the check of the decision reports that.
    except RegistryError as error:
        return None, str(error)


def _packet(
    version: ModelVersion, entries: tuple[Entry, ...]
) -> tuple[Mapping[str, Any], str | None]:
    """Return the packet of the latest decision and its fault, if any."""
    digest = next((e.packet_digest for e in reversed(entries) if e.packet_digest), None)
    # Packets are artifacts of the version's run, so an unknown run leaves nowhere to look.
    if digest is None or version.run_id == UNKNOWN:
        return {}, None
    try:
        packet = packet_in_store(version, digest)
    except RegistryError as error:
        return {}, str(error)
    # The reviewer must have seen the files that are registered now.
    seen = packet["candidate"]["manifest_digest"]
    if version.manifest_digest not in (UNKNOWN, seen):
        return packet, (
            f"the packet was made of files with the manifest {seen[:12]}, but the version has "
            f"{version.manifest_digest[:12]}"
        )
    return packet, None

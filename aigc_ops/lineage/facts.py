"""All that is known of what a reference led to, gathered once for every link."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.atomic_dirs import read_provenance, verify_folder
from aigc_ops.core.errors import AigcOpsError, CheckpointError, RegistryError
from aigc_ops.lineage.lookup import UNKNOWN, Found
from aigc_ops.registry import lookup
from aigc_ops.registry.audit_log import Audit, Entry, audit
from aigc_ops.registry.evidence import packet_in_store
from aigc_ops.registry.lookup import Held, HeldRun
from aigc_ops.registry.resolution import cached, stored_provenance


@dataclass(frozen=True)
class Facts:
    """What the stores hold, and what is wrong with it."""

    found: Found
    held: Held | None = None
    damage: str | None = None
    """Why the version's stored files are not what was registered."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What training recorded, from files that match their manifest; empty without them."""
    run_id: str | None = None
    run: HeldRun | None = None
    log: Audit | None = None
    log_fault: str | None = None
    entries: tuple[Entry, ...] = ()
    """The log's entries on this version."""
    packet: Mapping[str, Any] = field(default_factory=dict)
    packet_fault: str | None = None

    @classmethod
    def of(cls, found: Found) -> Self:
        """The facts behind what a reference led to."""
        version = found.version
        if version is None:
            run = lookup.held_run(found.run_id) if found.run_id else None
            return cls(found, run_id=found.run_id, run=run)
        held = lookup.held(version)
        damage, provenance = _provenance(version, held)
        run_id = found.run_id or version.run_id or provenance.get("run_id")
        log, log_fault = _log(version)
        entries = tuple(e for e in log.entries if e.version == version.version) if log else ()
        packet, packet_fault = _packet(version, entries)
        return cls(
            found,
            held=held,
            damage=damage,
            provenance=provenance,
            run_id=run_id,
            run=lookup.held_run(run_id) if run_id else None,
            log=log,
            log_fault=log_fault,
            entries=entries,
            packet=packet,
            packet_fault=packet_fault,
        )

    @property
    def version(self) -> ModelVersion | None:
        """The version, as it was recorded."""
        return self.found.version

    @property
    def tags(self) -> Mapping[str, str]:
        """The version's tags; of a run that led to none, the run's."""
        if self.held:
            return self.held.tags
        return self.run.tags if self.run else {}


def _provenance(version: ModelVersion, held: Held | None) -> tuple[str | None, Mapping[str, Any]]:
    damage = None
    if held:
        try:
            return None, stored_provenance(version)
        except AigcOpsError as error:
            damage = str(error)
    folder = cached(version.manifest_digest)  # of a deleted version this home may keep a copy
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
    except RegistryError as error:
        return None, str(error)


def _packet(
    version: ModelVersion, entries: tuple[Entry, ...]
) -> tuple[Mapping[str, Any], str | None]:
    """What the packet of the latest decision says."""
    digest = next((e.packet_digest for e in reversed(entries) if e.packet_digest), None)
    if digest is None or version.run_id == UNKNOWN:
        return {}, None
    try:
        packet = packet_in_store(version, digest)
    except RegistryError as error:
        return {}, str(error)
    seen = packet["candidate"]["manifest_digest"]
    if version.manifest_digest not in (UNKNOWN, seen):
        return packet, (
            f"the packet was made of files with the manifest {seen[:12]}, the version says "
            f"{version.manifest_digest[:12]}"
        )
    return packet, None

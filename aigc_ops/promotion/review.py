"""A person's decision on a version: on the evidence as it stands, once, by who is named."""

from aigc_ops.core.artifacts import ModelVersion, Verdict
from aigc_ops.core.errors import DecisionError, StaleDecision
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.registry import aliases as registry
from aigc_ops.registry.aliases import Decision
from aigc_ops.registry.audit_log import Entry
from aigc_ops.registry.evidence import PAGE, StoredPacket, read_packet
from aigc_ops.registry.versions import champion

MIN_DIGEST = 12
"""Characters of a packet's digest that name it."""


def approve(
    version: ModelVersion,
    *,
    who: str,
    reason: str,
    seen: str | None = None,
    flow_run: str | None = None,
) -> Verdict:
    """Make the version champion on a person's word; of two who must agree, record the first.

    `seen` is the digest of the packet that the person looked at, or its first 12 characters or
    more; None: the latest. Raises DecisionError for an empty reason, a stale packet, or what was
    decided already.
    """
    packet = _packet(version, seen)
    decision = _decision(packet, who, reason, flow_run)
    policy = PromotionConfig.model_validate(packet.content["promotion"])
    entry = registry.promote(
        version, decision, champion=packet.champion, reviewers=policy.reviewers
    )
    if entry is None:
        raise DecisionError(f"{version.uri} is the champion already")
    return verdict_of(version, entry)


def reject(
    version: ModelVersion,
    *,
    who: str,
    reason: str,
    seen: str | None = None,
    flow_run: str | None = None,
) -> Verdict:
    """Record that a person rejected the version; as `approve`."""
    packet = _packet(version, seen)
    decision = _decision(packet, who, reason, flow_run)
    return verdict_of(version, registry.reject(version, decision))


def rollback(
    name: str, to: int | None, *, who: str, reason: str, flow_run: str | None = None
) -> Entry:
    """Make the champion before this one, or version `to`, champion again."""
    decision = _checked(who, reason).model_copy(update={"flow_run": flow_run})
    return registry.rollback(name, to, decision)


def verdict_of(version: ModelVersion, entry: Entry) -> Verdict:
    """Return the verdict that an entry of the log on this version stands for."""
    packet = read_packet(version)
    return Verdict(
        model=version,
        promoted=entry.action == "promote",
        alias="champion" if entry.action == "promote" else "challenger",
        champion=champion(version.name),
        reasons=(_reason_of(entry),),
        gate=packet.content["ruling"]["outcome"],
        waiting=entry.action in ("approve", "challenge"),
        packet_digest=packet.packet_digest,
        packet_uri=f"{packet.folder}/{PAGE}",
    )


def _reason_of(entry: Entry) -> str:
    if entry.action == "challenge":
        return entry.reason
    said = "rejected" if entry.action == "reject" else "approved"
    more = "; another reviewer must approve too" if entry.action == "approve" else ""
    return f"{said} by {entry.who}: {entry.reason}{more}"


def _packet(version: ModelVersion, seen: str | None) -> StoredPacket:
    packet = read_packet(version)
    if seen is not None and len(seen) < MIN_DIGEST:
        raise DecisionError(
            f"{seen!r} names no packet; give the digest that `aigc-ops review {version.name} "
            f"{version.version}` prints, or its first {MIN_DIGEST} characters"
        )
    if seen is not None and not packet.packet_digest.startswith(seen):
        raise StaleDecision(
            f"the packet {seen[:12]} is stale: {version.uri} was weighed anew since, see "
            f"`aigc-ops review {version.name} {version.version}`"
        )
    return packet


def _decision(packet: StoredPacket, who: str, reason: str, flow_run: str | None) -> Decision:
    return _checked(who, reason).model_copy(
        update={
            "gate": packet.content["ruling"]["outcome"],
            "packet_digest": packet.packet_digest,
            "flow_run": flow_run,
        }
    )


def _checked(who: str, reason: str) -> Decision:
    for what, text, most in (("reviewer", who, 80), ("reason", reason, 500)):
        if not text.strip():
            raise DecisionError(f"the {what} is empty; a decision names who took it and why")
        if len(text) > most:
            raise DecisionError(f"the {what} has {len(text)} characters; {most} at most")
    return Decision(who=who, reason=reason)

"""Records a reviewer's decision on a version, bound to the review packet that was read."""

from typing import Literal

from aigc_ops.core.artifacts import ModelVersion, Verdict
from aigc_ops.core.errors import DecisionError, StaleDecision
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.registry import aliases as registry
from aigc_ops.registry.aliases import Decision
from aigc_ops.registry.audit_log import Entry
from aigc_ops.registry.evidence import PAGE, StoredPacket, read_packet
from aigc_ops.registry.versions import champion

MIN_DIGEST = 12
"""Minimum number of characters of a packet's digest that identify it."""


def approve(
    version: ModelVersion,
    *,
    who: str,
    reason: str,
    seen: str | None = None,
    flow_run: str | None = None,
) -> Verdict:
    """Record a reviewer's approval; the last required one makes the version champion.

    `seen` is the digest of the packet that the reviewer read, or at least its first 12 characters;
    None: the latest packet. Raises DecisionError for an empty reason, a stale packet, and a version
    that is champion already or was rejected.
    """
    packet = _packet(version, seen)
    decision = _decision(packet, who, reason, flow_run)
    # The policy of the packet counts, not today's config: the reviewer agreed to these terms.
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
    """Record a reviewer's rejection; arguments and errors are those of `approve`."""
    packet = _packet(version, seen)
    decision = _decision(packet, who, reason, flow_run)
    return verdict_of(version, registry.reject(version, decision))


def rollback(
    name: str, to: int | None, *, who: str, reason: str, flow_run: str | None = None
) -> Entry:
    """Make the previous champion, or version `to`, champion again."""
    # A rollback needs no packet: it restores a version that was promoted on evidence before.
    decision = _checked(who, reason).model_copy(update={"flow_run": flow_run})
    return registry.rollback(name, to, decision)


def verdict_of(version: ModelVersion, entry: Entry) -> Verdict:
    """Return the verdict of an audit-log entry on this version."""
    packet = read_packet(version)
    aliases: dict[str, Literal["champion", "challenger"] | None] = {
        "promote": "champion",
        "hold": None,
        "reject": None,
    }
    return Verdict(
        model=version,
        promoted=entry.action == "promote",
        alias=aliases.get(entry.action, "challenger"),
        champion=champion(version.name),
        reasons=(_reason_of(entry),),
        gate=packet.content["ruling"]["outcome"],
        waiting=entry.action in ("approve", "challenge", "hold"),
        packet_digest=packet.packet_digest,
        packet_uri=f"{packet.folder}/{PAGE}",
    )


def _reason_of(entry: Entry) -> str:
    if entry.action in ("challenge", "hold"):
        return entry.reason
    decided = "rejected" if entry.action == "reject" else "approved"
    more = "; a second reviewer is required" if entry.action == "approve" else ""
    return f"{decided} by {entry.who}: {entry.reason}{more}"


def _packet(version: ModelVersion, seen: str | None) -> StoredPacket:
    """Return the version's latest packet, if it is the one that the reviewer read."""
    packet = read_packet(version)
    if seen is not None and len(seen) < MIN_DIGEST:
        raise DecisionError(
            f"{seen!r} does not identify a packet; give the digest that `aigc-ops review "
            f"{version.name} {version.version}` prints, or its first {MIN_DIGEST} characters"
        )
    if seen is not None and not packet.packet_digest.startswith(seen):
        raise StaleDecision(
            f"the packet {seen[:12]} is stale: {version.uri} has been re-evaluated since, see "
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
    # The limits of `Decision`, checked here so that a reviewer reads a sentence instead of
    # pydantic's report.
    for field, text, max_length in (("reviewer", who, 80), ("reason", reason, 500)):
        if not text.strip():
            raise DecisionError(f"the {field} is empty; a decision needs a reviewer and a reason")
        if len(text) > max_length:
            raise DecisionError(f"the {field} has {len(text)} characters; {max_length} at most")
    return Decision(who=who, reason=reason)

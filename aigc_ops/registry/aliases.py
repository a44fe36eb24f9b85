"""Moves the aliases of a model; each change is an entry of its audit log.

The entry is written first and carried out afterwards. A kill in between leaves the old aliases and
a log that records the intended ones; the next change completes it.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import StringConstraints, field_validator

from aigc_ops.core.artifacts import ModelVersion, Record
from aigc_ops.core.errors import DecisionError, RegistryError, StaleDecision
from aigc_ops.core.escaping import printable
from aigc_ops.interfaces.canaries import canaries_of
from aigc_ops.registry import audit_log
from aigc_ops.registry.audit_log import Action, Aliases, Entry
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.lock import store_lock
from aigc_ops.registry.model_card import with_decision
from aigc_ops.registry.resolution import stored_provenance
from aigc_ops.registry.versions import (
    ALIASES,
    AUDIT_TAG,
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    FLOW_RUN_TAG,
    GATE_TAG,
    PACKET_TAG,
    PREVIOUS,
    REASON_TAG,
    REVIEWER_TAG,
    find,
    to_noun,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking import MlflowClient

AUTOMATIC = "aigc-ops, as the config says"
"""Reviewer in the log for decisions that the config automates."""


class Decision(Record):
    """A decision: reviewer, reason and evidence."""

    who: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    gate: str | None = None
    packet_digest: str | None = None
    flow_run: str | None = None

    @field_validator("who")
    @classmethod
    def _one_spelling(cls, text: str) -> str:
        """Return the name in Unicode's NFKC with single spaces."""
        # Two spellings of one name must not count as the two reviewers that a policy requires.
        return " ".join(unicodedata.normalize("NFKC", text).split())

    @field_validator("who", "reason")
    @classmethod
    def _harmless(cls, text: str) -> str:
        """Return the text with control and direction characters escaped."""
        # The texts are printed to terminals, which would execute escape sequences in them.
        return printable(text)


def promote(
    version: ModelVersion, decision: Decision, *, champion: int | None, reviewers: int = 1
) -> Entry | None:
    """Make the version champion instead of `champion`, the one that it was compared with.

    With `reviewers` of 2 the first approval of the evidence is recorded and moves no alias. Returns
    None for a version that is champion already. Raises StaleDecision if the champion has changed,
    DecisionError if the version was rejected or rolled back from on this evidence or the reviewer
    has approved it before, and CheckpointError if its stored files were changed.
    """
    with _locked_model(version) as (client, model, aliases):
        if aliases.get(CHAMPION) == version.version:
            return None
        _require_champion(version, aliases, champion)
        _require_not_rejected(model, version, decision)
        require_servable(version)
        earlier = _approvals(model, version, decision)
        if decision.who.casefold() in earlier:
            raise DecisionError(
                f"{decision.who} has approved {version.uri} already; a second reviewer is required"
            )
        if len(earlier) + 1 < reviewers:
            return _decide(client, model, "approve", version, aliases, dict(aliases), decision)
        after = {**aliases, CHAMPION: version.version}
        if champion is not None:
            after[PREVIOUS] = champion
        if aliases.get(CHALLENGER) == version.version:
            del after[CHALLENGER]
        return _decide(client, model, "promote", version, aliases, after, decision)


def challenge(version: ModelVersion, decision: Decision) -> Entry | None:
    """Make the version challenger; None if it is, by the same decision."""
    with _locked_model(version) as (client, model, aliases):
        # A stage that is repeated must not fill the log with equal entries.
        is_challenger = aliases.get(CHALLENGER) == version.version
        if is_challenger and _already_recorded(client, version, decision):
            return None
        after = {**aliases, CHALLENGER: version.version}
        return _decide(client, model, "challenge", version, aliases, after, decision)


def hold(version: ModelVersion, decision: Decision) -> Entry | None:
    """Record that the gate holds the version back; None if the same decision is recorded.

    The version gets no alias, and loses that of challenger.
    """
    with _locked_model(version) as (client, model, aliases):
        if (CHALLENGER, version.version) not in aliases.items() and _already_recorded(
            client, version, decision
        ):
            return None
        return _decide(
            client, model, "hold", version, aliases, _unchallenged(aliases, version), decision
        )


def reject(version: ModelVersion, decision: Decision) -> Entry:
    """Record the rejection of the version and remove its challenger alias."""
    with _locked_model(version) as (client, model, aliases):
        if aliases.get(CHAMPION) == version.version:
            raise DecisionError(
                f"{version.uri} is the champion; `aigc-ops rollback {version.name}` replaces it"
            )
        _require_not_rejected(model, version, decision)
        after = _unchallenged(aliases, version)
        return _decide(client, model, "reject", version, aliases, after, decision)


def rollback(name: str, to: int | None, decision: Decision) -> Entry:
    """Make an earlier champion champion again: the previous one, or version `to`.

    Raises DecisionError for a version that never was champion, or that is champion now.
    """
    client = connect()
    with store_lock():
        model = _completed(client, audit_log.registered(client, name))
        aliases = audit_log.aliases_of(client, model)
        # Only the log proves that a version was champion: anyone may set an alias in MLflow.
        earlier = {e.after.get(CHAMPION) for e in audit_log.read_log(model)}
        target = aliases.get(PREVIOUS) if to is None else to
        if target is None or target not in earlier or target == aliases.get(CHAMPION):
            known = sorted(v for v in earlier if v and v != aliases.get(CHAMPION))
            raise DecisionError(
                f"{name} has no earlier champion {'' if to is None else to}".rstrip()
                + f"; earlier champions are {', '.join(map(str, known)) or 'none'}"
            )
        entity = _require_ready(client, name, target)
        require_servable(to_noun(entity))
        after = {**aliases, CHAMPION: target}
        if current := aliases.get(CHAMPION):
            after[PREVIOUS] = current
        if after.get(CHALLENGER) == target:
            del after[CHALLENGER]
        return _decide(client, model, "rollback", to_noun(entity), aliases, after, decision)


def reconcile(name: str, mode: Literal["flag", "revert"]) -> list[str]:
    """Return messages on aliases that were moved outside aigc-ops; `revert` restores them.

    A decision that was interrupted is completed first: until then its aliases look moved.
    """
    client = connect()
    with store_lock():
        model = _completed(client, audit_log.registered(client, name))
        entries, aliases = audit_log.read_log(model), audit_log.aliases_of(client, model)
        moves = audit_log.moved_by_hand(entries, aliases)
        if moves and mode == "revert":
            recorded = audit_log.aliases_after(entries)
            decision = Decision(who=AUTOMATIC, reason="; ".join(moves)[:500])
            # An entry needs a version. Where the log is empty, or records no champion, the entry
            # names the latest decided version, or else one that has an alias now.
            version = entries[-1].version if entries else next(iter(aliases.values()))
            entity = _require_ready(client, name, recorded.get(CHAMPION) or version)
            _decide(client, model, "revert", to_noun(entity), aliases, recorded, decision)
        return moves


def require_servable(version: ModelVersion) -> None:
    """Raise CheckpointError for a version that is damaged, DecisionError for one with canaries."""
    # The store's copy is downloaded and verified now: it is what will be served.
    if canaries_of(stored_provenance(version)):
        raise DecisionError(
            f"{version.uri} was trained with canaries: such a run is a diagnosis and is never "
            "promoted; train without evaluation.canaries"
        )


def _unchallenged(aliases: Aliases, version: ModelVersion) -> Aliases:
    """Return the aliases without that of challenger, if it is the version's."""
    return {a: n for a, n in aliases.items() if (a, n) != (CHALLENGER, version.version)}


@contextmanager
def _locked_model(
    version: ModelVersion,
) -> "Iterator[tuple[MlflowClient, RegisteredModel, Aliases]]":
    """Hold the store's lock, with the log verified and complete and the version ready."""
    client = connect()
    with store_lock():
        _require_ready(client, version.name, version.version)
        model = _completed(client, audit_log.registered(client, version.name))
        yield client, model, audit_log.aliases_of(client, model)


def _require_ready(client: "MlflowClient", name: str, number: int) -> "Entity":
    """Return MLflow's record of a version; raises RegistryError unless it is ready."""
    entity = find(client, name, version=number)
    state = "does not exist" if entity is None else f"is {entity.status}"
    if entity is not None and entity.status == "READY":
        # MLflow's stages are deprecated, but a client can still archive a version with them.
        if entity.current_stage != "Archived":
            return entity
        state = "is archived"
    raise RegistryError(f"models:/{name}/{number} {state}; `aigc-ops models` lists all versions")


def _require_champion(version: ModelVersion, aliases: Mapping[str, int], known: int | None) -> None:
    now = aliases.get(CHAMPION)
    if now != known:
        then = "while there was no champion" if known is None else f"against version {known}"
        raise StaleDecision(
            f"{version.uri} was evaluated {then}, but "
            f"{'there is none' if now is None else f'version {now} is champion'} now; run "
            f"`aigc-ops promote {version.uri}` again"
        )


def _require_not_rejected(
    model: "RegisteredModel", version: ModelVersion, decision: Decision
) -> None:
    if entry := _rejection_in(audit_log.read_log(model), version.version, decision.packet_digest):
        text = f"{version.uri} was {rejection_text(entry)}"
        if entry.action == "rollback":
            command = f"aigc-ops rollback {version.name} --to {version.version}"
            text += f"; `{command}` makes it champion again"
        raise DecisionError(text)


def rejection_text(entry: Entry) -> str:
    """Return who rejected a version or rolled back from it, and why."""
    how = "rejected" if entry.action == "reject" else "rolled back from"
    return f"{how} by {entry.who} on this evidence: {entry.reason}"


def _rejection_in(entries: Sequence[Entry], number: int, packet_digest: str | None) -> Entry | None:
    """Return the rejection of a version, or the rollback from it, on this evidence."""
    # 1. A rejection counts while it is the latest decision: new evidence makes a new challenge.
    decisions = [entry for entry in entries if entry.version == number]
    if decisions and (decisions[-1].action, decisions[-1].packet_digest) == (
        "reject",
        packet_digest,
    ):
        return decisions[-1]
    # 2. A rollback has no packet. It refutes all evidence on which the version was decided before.
    rollback = _last_rollback(entries, number)
    refuted = {e.packet_digest for e in decisions if rollback and e.number < rollback.number}
    return rollback if packet_digest in refuted else None


def _last_rollback(entries: Sequence[Entry], number: int) -> Entry | None:
    """Return the rollback from a version that has not been champion since."""
    for entry in reversed(entries):
        if entry.after.get(CHAMPION) == number:
            return None
        if entry.action == "rollback" and entry.before.get(CHAMPION) == number:
            return entry
    return None


def _already_recorded(client: "MlflowClient", version: ModelVersion, decision: Decision) -> bool:
    tags = _require_ready(client, version.name, version.version).tags
    recorded = {REASON_TAG: decision.reason, GATE_TAG: decision.gate}
    return bool(recorded.items() <= tags.items())


def _approvals(model: "RegisteredModel", version: ModelVersion, decision: Decision) -> set[str]:
    """Return the reviewers who approved the version on this evidence before, case-folded."""
    return {
        entry.who.casefold()
        for entry in audit_log.read_log(model)
        if (entry.action, entry.version, entry.packet_digest)
        == ("approve", version.version, decision.packet_digest)
    }


def _decide(
    client: "MlflowClient",
    model: "RegisteredModel",
    action: Action,
    version: ModelVersion,
    before: Aliases,
    after: Aliases,
    decision: Decision,
) -> Entry:
    # 1. The entry: chained to the one before, so that a later change of any entry is detected.
    entries = audit_log.read_log(model)
    entry = Entry(
        number=len(entries) + 1,
        time=audit_log.now(),
        model=version.name,
        action=action,
        version=version.version,
        before=before,
        after=after,
        previous=entries[-1].digest if entries else audit_log.FIRST,
        **decision.model_dump(),
    )
    # 2. The log before the aliases: a kill between the two leaves a decision that can be completed.
    #    In the other order it would leave moved aliases that look like moves outside aigc-ops.
    audit_log.append(client, entry)
    _carry_out(client, entry)
    return entry


def _completed(client: "MlflowClient", model: "RegisteredModel") -> "RegisteredModel":
    """Return the model after carrying out a decision that was interrupted."""
    entries = audit_log.read_log(model)
    if len(entries) <= audit_log.done_number(model):
        return model
    _carry_out(client, entries[-1])
    return audit_log.registered(client, model.name)


def _carry_out(client: "MlflowClient", entry: Entry) -> None:
    """Write the version's tags, then move the aliases; idempotent."""
    name, number = entry.model, str(entry.version)
    with faults(f"carrying out entry {entry.number} of {name!r}"):
        # A version that was deleted after the entry was written takes no alias any more.
        if entity := find(client, name, version=entry.version):
            text = with_decision(entity.description or "", entry)
            client.update_model_version(name, number, text)
            for tag, value in _tags(entry).items():
                client.set_model_version_tag(name, number, tag, value)
            _set_aliases(client, name, entry.after)
        # Last: until this tag is set the entry counts as interrupted and is carried out again.
        client.set_registered_model_tag(name, audit_log.DONE_TAG, str(entry.number))


def _set_aliases(client: "MlflowClient", name: str, wanted: Aliases) -> None:
    # Aliases that others set for their own purposes are not in ALIASES and stay.
    current = client.get_registered_model(name).aliases
    for alias in ALIASES:
        target = wanted.get(alias)
        if target is None and alias in current:
            client.delete_registered_model_alias(name, alias)
        elif target is not None and current.get(alias) != str(target):
            client.set_registered_model_alias(name, alias, str(target))


def _tags(entry: Entry) -> dict[str, str]:
    tags = {
        DECISION_TAG: entry.action,
        REVIEWER_TAG: entry.who,
        REASON_TAG: entry.reason,
        AUDIT_TAG: entry.digest,
        GATE_TAG: entry.gate,
        PACKET_TAG: entry.packet_digest,
        FLOW_RUN_TAG: entry.flow_run,
    }
    return {tag: value for tag, value in tags.items() if value}


def last_decision(version: ModelVersion) -> Entry | None:
    """Return the latest entry on a version, None without one."""
    entries = [entry for entry in _log(version) if entry.version == version.version]
    return entries[-1] if entries else None


def find_rejection(version: ModelVersion, packet_digest: str) -> Entry | None:
    """Return the rejection of a version, or the rollback from it, on this evidence, or None."""
    return _rejection_in(_log(version), version.version, packet_digest)


def find_rollback(version: ModelVersion) -> Entry | None:
    """Return the rollback from a version that has not been champion since, on any evidence."""
    return _last_rollback(_log(version), version.version)


def _log(version: ModelVersion) -> list[Entry]:
    return audit_log.read_log(audit_log.registered(connect(), version.name))

"""The promote stage's hand: aliases move here and nowhere else, each by an entry of the log.

An entry is written first and carried out after it, so a kill in between leaves the old
aliases and a log that says what was meant; the next change completes it.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import StringConstraints, field_validator

from aigc_ops.core.artifacts import ModelVersion, Noun
from aigc_ops.core.errors import DecisionError, RegistryError, StaleDecision
from aigc_ops.core.escaping import printable
from aigc_ops.registry import audit_log
from aigc_ops.registry.audit_log import Action, Aliases, Entry
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.lock import store_lock
from aigc_ops.registry.model_card import with_decision
from aigc_ops.registry.resolution import verify_stored
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
"""Who decided when nobody was asked."""


class Decision(Noun):
    """Who decided, why, and on what evidence."""

    who: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    gate: str | None = None
    packet_digest: str | None = None
    flow_run: str | None = None

    @field_validator("who")
    @classmethod
    def _one_spelling(cls, text: str) -> str:
        """Of names that look alike, one: Unicode's NFKC, with single spaces."""
        return " ".join(unicodedata.normalize("NFKC", text).split())

    @field_validator("who", "reason")
    @classmethod
    def _harmless(cls, text: str) -> str:
        """Control and direction characters written out, so that no terminal obeys them."""
        return printable(text)


def promote(
    version: ModelVersion, decision: Decision, *, champion: int | None, reviewers: int = 1
) -> Entry | None:
    """Make the version champion in the place of the one that the decision knew of.

    Where several reviewers must agree, all but the last approval of this evidence are recorded
    and move nothing. None when the version is champion already. Raises DecisionError when another
    one has become champion since, the version was rejected or rolled back from on this evidence or
    the reviewer has approved it before, and CheckpointError when its stored files were changed.
    """
    with _changing(version) as (client, model, aliases):
        if aliases.get(CHAMPION) == version.version:
            return None
        _require_champion(version, aliases, champion)
        _require_not_rejected(model, version, decision)
        earlier = _approvals(model, version, decision)
        if decision.who.casefold() in earlier:
            raise DecisionError(
                f"{decision.who} has approved {version.uri} already; somebody else must too"
            )
        if len(earlier) + 1 < reviewers:
            return _decide(client, model, "approve", version, aliases, dict(aliases), decision)
        verify_stored(version)
        after = {**aliases, CHAMPION: version.version}
        if champion is not None:
            after[PREVIOUS] = champion
        if aliases.get(CHALLENGER) == version.version:
            del after[CHALLENGER]
        return _decide(client, model, "promote", version, aliases, after, decision)


def challenge(version: ModelVersion, decision: Decision) -> Entry | None:
    """Make the version challenger: it may be reviewed, or was not better; None when it is so."""
    with _changing(version) as (client, model, aliases):
        if aliases.get(CHALLENGER) == version.version and _is_said(client, version, decision):
            return None
        after = {**aliases, CHALLENGER: version.version}
        return _decide(client, model, "challenge", version, aliases, after, decision)


def reject(version: ModelVersion, decision: Decision) -> Entry:
    """Record that the version was rejected; it is challenger no more."""
    with _changing(version) as (client, model, aliases):
        if aliases.get(CHAMPION) == version.version:
            raise DecisionError(
                f"{version.uri} is the champion; `aigc-ops rollback {version.name}` replaces it"
            )
        _require_not_rejected(model, version, decision)
        after = {a: n for a, n in aliases.items() if (a, n) != (CHALLENGER, version.version)}
        return _decide(client, model, "reject", version, aliases, after, decision)


def rollback(name: str, to: int | None, decision: Decision) -> Entry:
    """Make an earlier champion champion again: the one before this, or version `to`.

    Raises DecisionError for a version that never was champion, or that is champion now.
    """
    client = connect()
    with store_lock():
        model = _completed(client, audit_log.registered(client, name))
        aliases = audit_log.aliases_of(client, model)
        earlier = {e.after.get(CHAMPION) for e in audit_log.read_log(model)}
        target = aliases.get(PREVIOUS) if to is None else to
        if target is None or target not in earlier or target == aliases.get(CHAMPION):
            known = sorted(v for v in earlier if v and v != aliases.get(CHAMPION))
            raise DecisionError(
                f"{name} has no earlier champion {'' if to is None else to}".rstrip()
                + f"; earlier champions are {', '.join(map(str, known)) or 'none'}"
            )
        entity = _ready(client, name, target)
        verify_stored(to_noun(entity))
        after = {**aliases, CHAMPION: target}
        if current := aliases.get(CHAMPION):
            after[PREVIOUS] = current
        if after.get(CHALLENGER) == target:
            del after[CHALLENGER]
        return _decide(client, model, "rollback", to_noun(entity), aliases, after, decision)


def reconcile(name: str, mode: Literal["flag", "revert"]) -> list[str]:
    """Aliases that were moved outside aigc-ops; put back where `mode` says so.

    A decision that a kill cut short is completed first.
    """
    client = connect()
    with store_lock():
        model = _completed(client, audit_log.registered(client, name))
        entries, aliases = audit_log.read_log(model), audit_log.aliases_of(client, model)
        found = audit_log.moved_by_hand(entries, aliases)
        if found and mode == "revert":
            said = audit_log.left_by(entries)
            decision = Decision(who=AUTOMATIC, reason="; ".join(found)[:500])
            version = entries[-1].version if entries else next(iter(aliases.values()))
            entity = _ready(client, name, said.get(CHAMPION) or version)
            _decide(client, model, "revert", to_noun(entity), aliases, said, decision)
        return found


@contextmanager
def _changing(
    version: ModelVersion,
) -> "Iterator[tuple[MlflowClient, RegisteredModel, Aliases]]":
    """The store held, its log whole, and the version ready."""
    client = connect()
    with store_lock():
        _ready(client, version.name, version.version)
        model = _completed(client, audit_log.registered(client, version.name))
        yield client, model, audit_log.aliases_of(client, model)


def _ready(client: "MlflowClient", name: str, number: int) -> "Entity":
    entity = find(client, name, version=number)
    state = "does not exist" if entity is None else f"is {entity.status}"
    if entity is not None and entity.status == "READY":
        if entity.current_stage != "Archived":
            return entity
        state = "is archived"
    raise RegistryError(f"models:/{name}/{number} {state}; `aigc-ops models` lists what there is")


def _require_champion(version: ModelVersion, aliases: Mapping[str, int], known: int | None) -> None:
    now = aliases.get(CHAMPION)
    if now != known:
        then = "while there was no champion" if known is None else f"against version {known}"
        raise StaleDecision(
            f"{version.uri} was weighed {then}, but "
            f"{'there is none' if now is None else f'version {now} is champion'} now; `aigc-ops "
            f"promote {version.uri}` weighs it anew"
        )


def _require_not_rejected(
    model: "RegisteredModel", version: ModelVersion, decision: Decision
) -> None:
    if entry := _turned_down(audit_log.read_log(model), version.version, decision.packet_digest):
        again = f"; `aigc-ops rollback {version.name} --to {version.version}` brings it back"
        raise DecisionError(
            f"{version.uri} was {said_no(entry)}{again if entry.action == 'rollback' else ''}"
        )


def said_no(entry: Entry) -> str:
    """How a person turned a version down, in words."""
    how = "rejected" if entry.action == "reject" else "rolled back from"
    return f"{how} by {entry.who} on this evidence: {entry.reason}"


def _turned_down(entries: Sequence[Entry], number: int, packet_digest: str | None) -> Entry | None:
    """The rejection of a version, or the rollback from it, on this evidence."""
    mine = [entry for entry in entries if entry.version == number]
    if mine and (mine[-1].action, mine[-1].packet_digest) == ("reject", packet_digest):
        return mine[-1]
    left = _left(entries, number)
    seen = {each.packet_digest for each in mine if left and each.number < left.number}
    return left if packet_digest in seen else None


def _left(entries: Sequence[Entry], number: int) -> Entry | None:
    """The rollback that took the champion's place from a version which has not had it since."""
    for entry in reversed(entries):
        if entry.after.get(CHAMPION) == number:
            return None
        if entry.action == "rollback" and entry.before.get(CHAMPION) == number:
            return entry
    return None


def _is_said(client: "MlflowClient", version: ModelVersion, decision: Decision) -> bool:
    tags = _ready(client, version.name, version.version).tags
    said: bool = {REASON_TAG: decision.reason, GATE_TAG: decision.gate}.items() <= tags.items()
    return said


def _approvals(model: "RegisteredModel", version: ModelVersion, decision: Decision) -> set[str]:
    """Who approved the version on the decision's evidence before, in one case of letters."""
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
    audit_log.append(client, entry)
    _carry_out(client, entry)
    return entry


def _completed(client: "MlflowClient", model: "RegisteredModel") -> "RegisteredModel":
    """The model after a decision that was cut short has been carried out."""
    entries = audit_log.read_log(model)
    if len(entries) <= audit_log.done_number(model):
        return model
    _carry_out(client, entries[-1])
    return audit_log.registered(client, model.name)


def _carry_out(client: "MlflowClient", entry: Entry) -> None:
    """Tell the version, then move the aliases; doing it again changes nothing."""
    name, number = entry.model, str(entry.version)
    with faults(f"carrying out entry {entry.number} of {name!r}"):
        # A version that was deleted after the entry was written takes no alias any more.
        if entity := find(client, name, version=entry.version):
            text = with_decision(entity.description or "", entry)
            client.update_model_version(name, number, text)
            for tag, value in _tags(entry).items():
                client.set_model_version_tag(name, number, tag, value)
            _set_aliases(client, name, entry.after)
        client.set_registered_model_tag(name, audit_log.DONE_TAG, str(entry.number))


def _set_aliases(client: "MlflowClient", name: str, wanted: Aliases) -> None:
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
    """The last entry on a version."""
    mine = [entry for entry in _log(version) if entry.version == version.version]
    return mine[-1] if mine else None


def turned_down(version: ModelVersion, packet_digest: str) -> Entry | None:
    """The rejection of a version, or the rollback from it, on this evidence; None without one."""
    return _turned_down(_log(version), version.version, packet_digest)


def rolled_back(version: ModelVersion) -> Entry | None:
    """The rollback from a version that has not been champion since, whatever the evidence."""
    return _left(_log(version), version.version)


def _log(version: ModelVersion) -> list[Entry]:
    return audit_log.read_log(audit_log.registered(connect(), version.name))

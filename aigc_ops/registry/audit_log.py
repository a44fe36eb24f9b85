"""The audit log of a model: all decisions and alias changes, chained by digest.

Each entry is a tag of the registered model, so everyone who shares the store shares the log.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from aigc_ops.core.artifacts import Record
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.versions import ALIASES, AUDIT_TAG, check_name, find, unknown

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking import MlflowClient

ENTRY_TAG = "aigc_ops.audit."
DONE_TAG = "aigc_ops.audit.done"
"""Number of the last entry that was carried out; a later entry was interrupted by a kill."""
NUMBERED = re.compile(re.escape(ENTRY_TAG) + r"(\d{6})")
FIRST = "0" * 64
PAST = "between entries"
"""Prefix of problems that are in the past and cannot be repaired."""

Action = Literal["promote", "challenge", "hold", "approve", "reject", "rollback", "revert"]
Aliases = dict[str, int]
"""Version by alias, for the three aliases that aigc-ops manages."""


class Entry(Record):
    """A decision: the aliases before and after it, the reviewer, the reason and the evidence."""

    # The digest of an entry is part of the next one. Another field name, or another default, would
    # change it and break the chain of every log that exists.

    number: int = Field(ge=1)
    time: str = Field(description="ISO 8601, UTC.")
    model: str
    action: Action
    version: int = Field(description="The version that was decided on.")
    before: Aliases
    after: Aliases
    who: str
    reason: str
    gate: str | None = Field(default=None, description="The gate's outcome for the version.")
    packet_digest: str | None = Field(default=None, description="Digest of the review packet.")
    flow_run: str | None = Field(default=None, description="Prefect flow run of the decision.")
    previous: str = Field(description="Digest of the previous entry; zeros for the first.")


class Audit(Record):
    """The log of one model with its problems."""

    model: str
    entries: tuple[Entry, ...]
    aliases: Aliases = Field(description="As they are in the registry now.")
    problems: tuple[str, ...]


def audit(name: str) -> Audit:
    """Return the log of a model, checked against its chain, its aliases and its versions' tags."""
    client = connect()
    model = registered(client, name)
    # 1. The log itself.
    entries, problems = _parsed(model)
    problems += _broken(model, entries) + _moved_between(entries)
    # 2. The aliases. While an entry is interrupted they differ from it, which is no move.
    aliases = aliases_of(client, model)
    if entries and entries[-1].number > done_number(model):
        problems.append(
            f"entry {entries[-1].number} ({entries[-1].action} version {entries[-1].version}) was "
            "interrupted; the next decision, or `aigc-ops doctor --repair`, completes it"
        )
    else:
        problems += moved_by_hand(entries, aliases)
    # 3. The versions. Each carries the digest of its latest entry, so that a log which was cut at
    #    its end, and is a valid chain again, is still detected.
    known = {entry.digest for entry in entries}
    with faults(f"reading the versions of {name!r}"):
        versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
    for entity in sorted(versions, key=lambda entity: int(entity.version)):
        digest = entity.tags.get(AUDIT_TAG)
        if digest and digest not in known:
            problems.append(f"version {entity.version} records entry {digest[:12]}, which is gone")
    return Audit(model=name, entries=tuple(entries), aliases=aliases, problems=tuple(problems))


def audited_names() -> list[str]:
    """Return the names of all models with an audit log, also of those without a version."""
    client, names, token = connect(), list[str](), None
    with faults("listing the models"):
        while token != "":
            page = client.search_registered_models(max_results=1000, page_token=token)
            names += [m.name for m in page if any(tag.startswith(ENTRY_TAG) for tag in m.tags)]
            token = page.token or ""
    return sorted(names)


def moved_by_hand(entries: Sequence[Entry], aliases: Mapping[str, int]) -> list[str]:
    """Return a message for each alias that differs from the last entry."""
    recorded = aliases_after(entries)
    return [
        f"{alias} was moved outside aigc-ops: it names {_numbered(aliases.get(alias))}, the log "
        f"says {_numbered(recorded.get(alias))}"
        for alias in ALIASES
        if aliases.get(alias) != recorded.get(alias)
    ]


def aliases_after(entries: Sequence[Entry]) -> Aliases:
    """Return the aliases after the last entry; none before the first."""
    return entries[-1].after if entries else {}


def registered(client: "MlflowClient", name: str) -> "RegisteredModel":
    """Return MLflow's record of a model; raises RegistryError that names a similar model."""
    from mlflow.exceptions import MlflowException

    with faults(f"reading {check_name(name)!r}"):
        try:
            return client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    raise unknown(client, name)


def aliases_of(client: "MlflowClient", model: "RegisteredModel") -> Aliases:
    """Return the aliases that aigc-ops manages, without those of deleted versions."""
    named = {a: int(version) for a, version in model.aliases.items() if a in ALIASES}
    # MLflow keeps the alias of a version that was deleted.
    return {a: v for a, v in named.items() if find(client, model.name, version=v)}


def read_log(model: "RegisteredModel") -> list[Entry]:
    """Return all entries in order; raises RegistryError if the log is damaged."""
    entries, problems = _parsed(model)
    if problems := problems + _broken(model, entries):
        raise RegistryError(
            f"the audit log of {model.name!r} is damaged: {problems[0]}; `aigc-ops audit "
            f"{model.name}` shows it; restore it from a backup, before which no alias can be moved"
        )
    return entries


def append(client: "MlflowClient", entry: Entry) -> None:
    """Write an entry; raises RegistryError if another process wrote the same number."""
    key = f"{ENTRY_TAG}{entry.number:06d}"
    # MLflow has no compare-and-set for tags. The store's lock prevents most races, but does not
    # cover machines that share a tracking server. Reading again shows whose entry was kept.
    with faults(f"writing the audit log of {entry.model!r}"):
        client.set_registered_model_tag(entry.model, key, entry.model_dump_json())
        stored = client.get_registered_model(entry.model).tags.get(key)
    if stored != entry.model_dump_json():
        raise RegistryError(
            f"another process decided on {entry.model!r} at the same moment; run `aigc-ops audit "
            f"{entry.model}` and repeat the decision if it is still right"
        )


def done_number(model: "RegisteredModel") -> int:
    """Return the number of the last entry that was carried out."""
    return int(model.tags.get(DONE_TAG, "0"))


def now() -> str:
    """Return the current time for an entry, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parsed(model: "RegisteredModel") -> tuple[list[Entry], list[str]]:
    entries, problems = [], []
    for key in sorted(filter(NUMBERED.fullmatch, model.tags)):
        try:
            entries.append(Entry.model_validate_json(model.tags[key]))
        except ValidationError as error:
            problems.append(f"{key} is not a valid entry ({error.error_count()} faults)")
    return entries, problems


def _broken(model: "RegisteredModel", entries: Sequence[Entry]) -> list[str]:
    """Return messages on entries that are missing or changed."""
    problems, previous = [], FIRST
    for number, entry in enumerate(entries, start=1):
        if entry.number != number:
            problems.append(f"entry {number} is missing: the next one is {entry.number}")
            break  # every later entry would be reported too
        if entry.previous != previous:
            problems.append(f"entry {number} does not match the one before: one was changed")
        previous = entry.digest
    # A log without its last entries is a valid chain; the number of entries carried out is not.
    if done_number(model) > len(entries):
        problems.append(f"{done_number(model)} entries were written, {len(entries)} are here")
    return problems


def _moved_between(entries: Sequence[Entry]) -> list[str]:
    """Return messages on aliases that were moved between two entries and not restored."""
    recorded = [{}, *(entry.after for entry in entries)]
    return [
        f"{PAST} {entry.number - 1} and {entry.number} aliases were moved outside aigc-ops, "
        f"from {before} to {entry.before}"
        for before, entry in zip(recorded, entries, strict=False)
        # A `revert` documents the move that it undoes.
        if before != entry.before and entry.action != "revert"
    ]


def _numbered(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"

"""The audit log of a model: every decision and every move of its aliases, chained by digest.

It lies in the store itself, a tag of the registered model for each entry, so whoever shares
the store shares the log.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from aigc_ops.core.artifacts import Noun
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.versions import ALIASES, AUDIT_TAG, check_name, find, unknown

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking import MlflowClient

ENTRY_TAG = "aigc_ops.audit."
DONE_TAG = "aigc_ops.audit.done"
"""Number of the last entry that was carried out; the one after it was cut short by a kill."""
NUMBERED = re.compile(re.escape(ENTRY_TAG) + r"(\d{6})")
FIRST = "0" * 64
PAST = "between entries"
"""How a problem begins that is over, and that nothing mends."""

Action = Literal["promote", "challenge", "approve", "reject", "rollback", "revert"]
Aliases = dict[str, int]
"""Version by alias, of the three that aigc-ops keeps."""


class Entry(Noun):
    """One decision: what it found, what it left, whose it was and why."""

    number: int = Field(ge=1)
    time: str = Field(description="ISO 8601, UTC.")
    model: str
    action: Action
    version: int = Field(description="The version that was decided on.")
    before: Aliases
    after: Aliases
    who: str
    reason: str
    gate: str | None = Field(default=None, description="What the gate said of the version.")
    packet_digest: str | None = Field(default=None, description="The evidence that was seen.")
    flow_run: str | None = Field(default=None, description="Prefect's run that decided.")
    previous: str = Field(description="Digest of the entry before; zeros for the first.")


class Audit(Noun):
    """The log of one model as it stands, and what is wrong with it."""

    model: str
    entries: tuple[Entry, ...]
    aliases: Aliases = Field(description="As the registry has them now.")
    problems: tuple[str, ...]


def audit(name: str) -> Audit:
    """The log of a model, checked: its chain, its aliases and its versions' own records."""
    client = connect()
    model = registered(client, name)
    entries, problems = _parsed(model)
    problems += _broken(model, entries) + _moved_between(entries)
    aliases = aliases_of(client, model)
    if entries and entries[-1].number > done_number(model):
        problems.append(
            f"entry {entries[-1].number} ({entries[-1].action} version {entries[-1].version}) was "
            "cut short; the next decision, or `aigc-ops doctor --repair`, completes it"
        )
    else:
        problems += moved_by_hand(entries, aliases)
    known = {entry.digest for entry in entries}
    with faults(f"reading the versions of {name!r}"):
        versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
    for entity in sorted(versions, key=lambda entity: int(entity.version)):
        digest = entity.tags.get(AUDIT_TAG)
        if digest and digest not in known:
            problems.append(f"version {entity.version} records entry {digest[:12]}, which is gone")
    return Audit(model=name, entries=tuple(entries), aliases=aliases, problems=tuple(problems))


def moved_by_hand(entries: Sequence[Entry], aliases: Mapping[str, int]) -> list[str]:
    """How aliases differ from what the last entry left; there are none before the first."""
    left = left_by(entries)
    return [
        f"{alias} was moved outside aigc-ops: it names {_numbered(aliases.get(alias))}, the log "
        f"says {_numbered(left.get(alias))}"
        for alias in ALIASES
        if aliases.get(alias) != left.get(alias)
    ]


def left_by(entries: Sequence[Entry]) -> Aliases:
    """The aliases as the last entry left them."""
    return entries[-1].after if entries else {}


def registered(client: "MlflowClient", name: str) -> "RegisteredModel":
    """MLflow's record of a model; raises RegistryError with the nearest name."""
    from mlflow.exceptions import MlflowException

    with faults(f"reading {check_name(name)!r}"):
        try:
            return client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    raise unknown(client, name)


def aliases_of(client: "MlflowClient", model: "RegisteredModel") -> Aliases:
    """The aliases that aigc-ops keeps, as they stand; MLflow leaves those of deleted versions."""
    named = {a: int(version) for a, version in model.aliases.items() if a in ALIASES}
    return {a: v for a, v in named.items() if find(client, model.name, version=v)}


def read_log(model: "RegisteredModel") -> list[Entry]:
    """Every entry in order; raises RegistryError when one is damaged or the chain is broken."""
    entries, problems = _parsed(model)
    if problems := problems + _broken(model, entries):
        raise RegistryError(
            f"the audit log of {model.name!r} is damaged: {problems[0]}; `aigc-ops audit "
            f"{model.name}` shows it, and no alias is moved until it is restored from a backup"
        )
    return entries


def append(client: "MlflowClient", entry: Entry) -> None:
    """Write an entry; raises RegistryError when another process wrote one of its number."""
    key = f"{ENTRY_TAG}{entry.number:06d}"
    with faults(f"writing the audit log of {entry.model!r}"):
        client.set_registered_model_tag(entry.model, key, entry.model_dump_json())
        stored = client.get_registered_model(entry.model).tags.get(key)
    if stored != entry.model_dump_json():
        raise RegistryError(
            f"another process decided on {entry.model!r} at the same moment; look again"
        )


def done_number(model: "RegisteredModel") -> int:
    """Number of the last entry that was carried out."""
    return int(model.tags.get(DONE_TAG, "0"))


def now() -> str:
    """The time of an entry."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parsed(model: "RegisteredModel") -> tuple[list[Entry], list[str]]:
    entries, problems = [], []
    for key in sorted(filter(NUMBERED.fullmatch, model.tags)):
        try:
            entries.append(Entry.model_validate_json(model.tags[key]))
        except ValidationError as error:
            problems.append(f"{key} is no entry ({error.error_count()} faults)")
    return entries, problems


def _broken(model: "RegisteredModel", entries: Sequence[Entry]) -> list[str]:
    """Where the chain does not hold."""
    problems, previous = [], FIRST
    for place, entry in enumerate(entries, start=1):
        if entry.number != place:
            problems.append(f"entry {place} is missing: {entry.number} stands in its place")
            break
        if entry.previous != previous:
            problems.append(f"entry {place} does not follow from the one before: one was changed")
        previous = entry.digest
    if done_number(model) > len(entries):
        problems.append(f"{done_number(model)} entries were written, {len(entries)} are here")
    return problems


def _moved_between(entries: Sequence[Entry]) -> list[str]:
    """Where an entry found other aliases than the one before it left, and did not put them back."""
    left = [{}, *(entry.after for entry in entries)]
    return [
        f"{PAST} {entry.number - 1} and {entry.number} aliases were moved outside aigc-ops, "
        f"from {before} to {entry.before}"
        for before, entry in zip(left, entries, strict=False)
        if before != entry.before and entry.action != "revert"
    ]


def _numbered(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"

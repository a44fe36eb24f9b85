"""The checks of a lineage: each compares the records of one link and reports its state."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from aigc_ops.core import prefect_http
from aigc_ops.core.artifacts import Record
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.escaping import printable
from aigc_ops.interfaces.canaries import canaries_of, digest_with
from aigc_ops.lineage.facts import Facts
from aigc_ops.pipeline import run_cache
from aigc_ops.provenance.code_version import has_commit
from aigc_ops.registry.runs import COMMIT_TAG, DIFF_TAG
from aigc_ops.registry.versions import (
    CHECKPOINT_TAG,
    DATASET_TAG,
    DVC_TAG,
    FLOW_RUN_TAG,
    MANIFEST_TAG,
    read_scores,
)
from aigc_ops.serving.bento.store import (
    bento_folders,
    is_unchanged,
    read_confirmation,
    tagged_folder,
)

State = Literal["holds", "absent", "broken"]
SHORT = 12
MAX_SHOWN = 200  # characters of a condition


class Link(Record):
    """The result of one check of a lineage."""

    # Programs that read the JSON of earlier versions know the message as `told`.
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: str
    state: State = Field(
        description="absent: no such record was ever made; broken: a record, or what it names, is "
        "missing or was changed."
    )
    message: str = Field(
        validation_alias="told",
        serialization_alias="told",
        description="The record, or its fault, in a sentence.",
    )
    details: dict[str, JsonValue] = Field(
        default={}, description="The record as data, for programs."
    )


def sample(facts: Facts) -> Link | None:
    """Return the metadata that the sample carries, None for other references."""
    note, path = facts.target.note, facts.target.sample
    if note is None:
        return None
    # A prompt and the names of controls come from a file that anyone may have written.
    request = [] if note.seed is None else [f"seed {note.seed}"]
    request += [f"{printable(name)} {_shown(value)}" for name, value in note.given().items()]
    request += [f"{printable(name)}={value:g}" for name, value in note.controls.items()]
    message = f"{path}: {', '.join(request)}, by the model {note.manifest_digest[:SHORT]}"
    return Link(name="sample", state="holds", message=message, details=note.model_dump(mode="json"))


def _shown(value: JsonValue) -> str:
    """Return a condition's value in one line of bounded length."""
    text = repr(printable(value)) if isinstance(value, str) else printable(json.dumps(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"


def bento(facts: Facts) -> Link | None:
    """Check the Bento of the reference, or all Bentos of the version."""
    version, tag = facts.version, facts.target.bento
    if version is None:
        return None
    recorded = [r.result.bento for r in run_cache.list_runs() if r.result.bento]
    packaged = [bento.tag for bento in recorded if bento.model == version]
    folders = [tagged_folder(tag)] if tag else bento_folders(version)
    proofs = [(folder, read_confirmation(folder)) for folder in folders]
    details: dict[str, JsonValue] = {"tags": [f"{f.parent.name}:{f.name}" for f, _ in proofs]}
    # 1. Bentos in the store: whole and confirmed. One damaged Bento breaks the link, whatever the
    #    others are, for any of them may be the one that is deployed.
    state: State = "holds"
    messages = []
    for folder, proof in proofs:
        name = f"{folder.parent.name}:{folder.name}"
        if not folder.is_dir():
            state = "broken"
            messages.append(f"{name} was packaged, but {folder} is missing; {_package(facts)}")
        elif proof is None:
            state = "broken"
            messages.append(
                f"{name} was never confirmed against its golden samples; {_package(facts)}"
            )
        elif not is_unchanged(folder, proof):
            state = "broken"
            messages.append(f"{name} was changed after it was confirmed; {_package(facts)}")
        else:
            messages.append(
                f"{name}, confirmed: {proof.bento.num_golden} golden samples differ by at most "
                f"{proof.bento.max_levels_apart} of 255 levels"
            )
    # 2. None in the store: a run's record says whether there ever was one.
    if not messages and packaged:
        lost = f"{packaged[0]} was packaged, but is not in BentoML's store; {_package(facts)}"
        return Link(name="bento", state="broken", message=lost, details={"tags": [packaged[0]]})
    if not messages:
        return Link(name="bento", state="absent", message="never packaged here")
    return Link(name="bento", state=state, message="; ".join(messages), details=details)


def version(facts: Facts) -> Link:
    """Check the version in the registry and its stored files."""
    recorded, registered = facts.version, facts.registered
    if recorded is None:
        subject = "this run" if facts.run else "the model that generated it"
        message = (
            f"{subject} has no version in this registry; `aigc-ops register CHECKPOINT` adds one"
        )
        return Link(name="version", state="absent", message=message)
    details: dict[str, JsonValue] = {**recorded.model_dump(mode="json"), "uri": recorded.uri}
    if registered is None:
        message = f"{recorded.uri} was deleted from the registry, or its number was given again"
        return Link(name="version", state="broken", message=message, details=details)
    details |= {"aliases": list(registered.aliases), "registered": registered.created}
    if facts.damage:
        return Link(name="version", state="broken", message=facts.damage, details=details)
    aliases = f" ({', '.join(registered.aliases)})" if registered.aliases else ""
    message = (
        f"{recorded.uri}{aliases}, registered {registered.created}; its files match manifest "
        f"{registered.tags[MANIFEST_TAG][:SHORT]}"
    )
    return Link(name="version", state="holds", message=message, details=details)


def decision(facts: Facts) -> Link | None:
    """Check the decisions on the version, the audit log around them and the review packet."""
    if facts.version is None:
        return None
    # The chain of digests covers the whole log, so a problem anywhere in it may hide a decision on
    # this version.
    reported = [facts.log_fault, *(facts.log.problems if facts.log else ()), facts.packet_fault]
    faults = [fault for fault in reported if fault]
    entries: list[JsonValue] = [entry.model_dump(mode="json") for entry in facts.entries]
    details: dict[str, JsonValue] = {"entries": entries}
    if faults:
        return Link(name="decision", state="broken", message="; ".join(faults), details=details)
    if not facts.entries:
        return Link(name="decision", state="absent", message="no decision was made on it yet")
    last = facts.entries[-1]
    message = f"{last.action} by {last.who} on {last.time[:19]}: {last.reason}"
    message += f"; the gate's outcome was {last.gate}" if last.gate else ""
    message += f"; packet {last.packet_digest[:SHORT]}" if last.packet_digest else ""
    if len(facts.entries) > 1:
        message += f"; {len(facts.entries) - 1} earlier: `aigc-ops audit {last.model}`"
    return Link(name="decision", state="holds", message=message, details=details)


def scores(facts: Facts) -> Link | None:
    """Check that the version's scores were measured on its own checkpoint."""
    if facts.registered is None:
        return None
    try:
        scores_stored = read_scores(facts.tags)
    except AigcOpsError as error:
        return Link(name="scores", state="broken", message=str(error))
    if scores_stored is None:
        return Link(name="scores", state="absent", message="never evaluated")
    details = scores_stored.model_dump(mode="json")
    # Scores of a registration name the training checkpoint. Those of an evaluation of the
    # registered version name its stored folder, whose manifest lacks the training state.
    digest = scores_stored.checkpoint_digest
    if digest not in (facts.tags.get(CHECKPOINT_TAG), facts.tags[MANIFEST_TAG]):
        message = f"its scores were measured on another checkpoint, {digest[:SHORT]}"
        return Link(name="scores", state="broken", message=message, details=details)
    primary = scores_stored.values[scores_stored.primary]
    message = (
        f"{scores_stored.primary} {primary.value:.4g} ({primary.low:.4g} to {primary.high:.4g}, "
        f"n = {primary.contract.get('n')}), and {len(scores_stored.values) - 1} more"
    )
    return Link(name="scores", state="holds", message=message, details=details)


def run(facts: Facts) -> Link | None:
    """Check that MLflow still has the run that trained the model."""
    if not facts.run_id:
        return None
    details: dict[str, JsonValue] = {"run_id": facts.run_id}
    if facts.run is None:
        message = f"MLflow no longer has the run {facts.run_id}"
        return Link(name="run", state="broken", message=message, details=details)
    details |= {
        "name": facts.run.name,
        "status": facts.run.status,
        "started": facts.run.started,
    }
    # MLflow only marks a deleted run. Its files remain until the garbage collector runs.
    if facts.run.is_deleted:
        message = f"{facts.run_id} was deleted; MLflow's UI restores it until `mlflow gc` has run"
        return Link(name="run", state="broken", message=message, details=details)
    message = f"{facts.run_id} {facts.run.name!r}, {facts.run.status}, started {facts.run.started}"
    return Link(name="run", state="holds", message=message, details=details)


def flow_run(facts: Facts) -> Link | None:
    """Return the Prefect flow runs that decided on the version, the latest first."""
    if facts.version is None:
        return None
    # A server that is down does not break the link: the audit log is the record, not Prefect.
    recorded = [facts.target.flow_run, *(entry.flow_run for entry in reversed(facts.entries))]
    flow_runs = list(dict.fromkeys(filter(None, [*recorded, facts.tags.get(FLOW_RUN_TAG)])))
    if not flow_runs:
        message = "no flow run is recorded: the decision came from the command line, or is pending"
        return Link(name="flow run", state="absent", message=message)
    message = f"{flow_runs[0]}; {_prefect_state(flow_runs[0])}"
    message += f"; before it {', '.join(flow_runs[1:])}" if flow_runs[1:] else ""
    return Link(
        name="flow run", state="holds", message=message, details={"flow_runs": [*flow_runs]}
    )


def commit(facts: Facts) -> Link:
    """Check that the version's files and tags name the same commit of the training code."""
    recorded = facts.provenance.get("revision") or {}
    revision = recorded.get("commit") or facts.tags.get(COMMIT_TAG)
    if not revision:
        return Link(name="commit", state="absent", message="trained outside a git repository")
    diff = recorded.get("diff_digest") if recorded else facts.tags.get(DIFF_TAG)
    details: dict[str, JsonValue] = {"commit": revision, "uncommitted_changes": diff}
    # Anyone who may write to MLflow can change a tag; the files are fixed by the manifest.
    if recorded and facts.registered and (tagged := facts.tags.get(COMMIT_TAG)) != revision:
        message = f"the version's tag names {tagged}, its files name {revision}"
        return Link(name="commit", state="broken", message=message, details=details)
    is_here = has_commit(revision)
    message = revision if is_here else f"{revision}, which is not in the repository here"
    message += (
        f", with uncommitted changes (digest {diff[:SHORT]})" if diff else ", nothing uncommitted"
    )
    return Link(name="commit", state="holds", message=message, details=details)


def data(facts: Facts) -> Link:
    """Check the training data: its recorded digests against each other and the files here."""
    in_run = facts.run.dataset if facts.run else {}
    digest = facts.provenance.get("dataset_digest") or facts.tags.get(DATASET_TAG)
    # The verified files are the best source, then the version's tag, then the run.
    digest = digest or in_run.get("content_digest")
    if not digest:
        return Link(name="data", state="absent", message="the run recorded no data")
    dvc = facts.provenance.get("dvc_digest") or facts.tags.get(DVC_TAG) or in_run.get("dvc_digest")
    details: dict[str, JsonValue] = {"content_digest": digest, "dvc_digest": dvc}
    message = digest + (f", pinned by DVC as {dvc}" if dvc else ", not pinned by DVC")
    # 1. Records against records: none of them may contradict the digest chosen above.
    claims = {
        "the version's tag": facts.tags.get(DATASET_TAG) if facts.registered else None,
        "the run": in_run.get("content_digest"),
    }
    for source, claimed in claims.items():
        if claimed not in (None, digest):
            message = f"{source} has {claimed[:SHORT]}, the version's files have {digest[:SHORT]}"
            return Link(name="data", state="broken", message=message, details=details)
    # 2. Records against files. Data that is elsewhere does not break the link: models are traced on
    #    machines that never had it.
    path = _data_path(facts)
    if path is None:
        return Link(
            name="data", state="holds", message=f"{message}; not on this machine", details=details
        )
    details["path"] = str(path)
    try:
        present = _present_digest(path, digest, facts.provenance)
    except AigcOpsError as error:
        return Link(name="data", state="broken", message=str(error), details=details)
    shown = os.path.relpath(path)
    if present != digest:
        message = (
            f"{shown} holds other data now ({present[:SHORT]}) than it was trained on "
            f"({digest[:SHORT]}); {_bring_back(facts, shown, dvc)}"
        )
        return Link(name="data", state="broken", message=message, details=details)
    return Link(name="data", state="holds", message=f"{message}; {shown} holds it", details=details)


def licences(facts: Facts) -> Link:
    """Return the licences and sources of the data, as the run or the packet recorded them."""
    # A review packet outlives a run that was deleted.
    reviewed = facts.packet.get("candidate", {}).get("data", {})
    recorded = (facts.run.dataset if facts.run else None) or reviewed
    names, sources = _texts(recorded.get("licences")), _texts(recorded.get("sources"))
    if not names and not sources:
        return Link(
            name="licences", state="absent", message="the data names none, or was not recorded"
        )
    message = f"{', '.join(names) or 'no licence'}; from {', '.join(sources) or 'no named source'}"
    details: dict[str, JsonValue] = {"licences": list(names), "sources": list(sources)}
    return Link(name="licences", state="holds", message=message, details=details)


LINKS: Sequence[Callable[[Facts], Link | None]] = (
    sample,
    bento,
    version,
    decision,
    scores,
    run,
    flow_run,
    commit,
    data,
    licences,
)


def _package(facts: Facts) -> str:
    assert facts.version, facts
    return f"`aigc-ops package {facts.version.uri}` packages it again"


def _prefect_state(flow_run: str) -> str:
    """Return a flow run's name and state, or why Prefect does not report them."""
    server = prefect_http.api_url()
    if server is None:
        return "no Prefect server is configured (PREFECT_API_URL)"
    try:
        answer = prefect_http.get_json(f"flow_runs/{flow_run}")
    except (OSError, ValueError) as error:
        return f"{server} does not answer ({error})"
    if answer is None:
        return f"{server} has no such flow run"
    return f"{printable(str(answer.get('name')))}, {printable(str(answer.get('state_name')))}"


def _data_path(facts: Facts) -> Path | None:
    """Return the data's path: the one in the run, or the config's relative to this folder."""
    config = (facts.provenance.get("config") or {}).get("data") or {}
    candidates = [facts.run.dataset_uri if facts.run else None, config.get("path")]
    return next(
        (Path(path).absolute() for path in candidates if path and Path(path).exists()), None
    )


def _present_digest(path: Path, recorded: str, provenance: Mapping[str, Any]) -> str:
    """Return the content digest of the data at a path, with the run's canaries if it had any."""
    from aigc_ops.formats.stat_digest import quick_digest

    # Hashing all content takes minutes for a large dataset. Names, sizes and times that equal those
    # of a finished run stand in for the content.
    quick = quick_digest(path)
    for record in run_cache.list_runs():
        if (record.data_digest, record.result.dataset.content_digest) == (quick, recorded):
            return recorded
    # The validated config decides which columns and splits count, as it did in training.
    from aigc_ops.data import DataConfig
    from aigc_ops.data.dataset import present_digest

    config = provenance.get("config") or {}
    settings = DataConfig.model_validate({**(config.get("data") or {}), "path": str(path)})
    return digest_with(present_digest(path, settings, recorded), canaries_of(provenance))


def _bring_back(facts: Facts, shown: str, dvc: str | None) -> str:
    commit = (facts.provenance.get("revision") or {}).get("commit")
    if dvc and commit:
        return (
            f"to bring it back: git checkout {commit[:SHORT]} -- '*.dvc' && aigc-ops dvc checkout, "
            "or trace in a clone of that commit"
        )
    return f"it was not pinned by DVC, so {shown} cannot be brought back from here"


def _texts(value: Any) -> list[str]:
    return [printable(str(text)) for text in value or ()]

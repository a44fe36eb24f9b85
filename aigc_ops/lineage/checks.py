"""Each link of a line: what it says, and whether it holds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue

from aigc_ops.core import prefect_http
from aigc_ops.core.artifacts import Noun
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.escaping import printable
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
from aigc_ops.serving.bento.store import confirmation, folders_of, is_whole, tagged_folder

State = Literal["holds", "absent", "broken"]
SHORT = 12


class Link(Noun):
    """One link of a line."""

    name: str
    state: State = Field(
        description="absent: there is none, and none was recorded; broken: what was recorded is "
        "gone or changed."
    )
    told: str = Field(description="What it says, or what is wrong with it, in a sentence.")
    details: dict[str, JsonValue] = Field(default={}, description="The same for programs.")


def sample(facts: Facts) -> Link | None:
    """What the sample says of itself."""
    note, path = facts.found.note, facts.found.sample
    if note is None:
        return None
    asked = [f"seed {note.seed}"]
    asked += [f"label {note.label}"] if note.label is not None else []
    asked += [f"prompt {printable(note.prompt)!r}"] if note.prompt is not None else []
    asked += [f"{printable(name)}={value:g}" for name, value in note.controls.items()]
    told = f"{path}: {', '.join(asked)}, by the model {note.manifest_digest[:SHORT]}"
    return Link(name="sample", state="holds", told=told, details=note.model_dump(mode="json"))


def bento(facts: Facts) -> Link | None:
    """The Bento of the reference, or those of the version."""
    version, tag = facts.version, facts.found.bento
    if version is None:
        return None
    recorded = [r.result.bento for r in run_cache.kept() if r.result.bento]
    gone = [each.tag for each in recorded if each.model == version]
    folders = [tagged_folder(tag)] if tag else folders_of(version)
    proofs = [(folder, confirmation(folder)) for folder in folders]
    details: dict[str, JsonValue] = {"tags": [f"{f.parent.name}:{f.name}" for f, _ in proofs]}
    state: State = "holds"
    told = []
    for folder, proof in proofs:
        name = f"{folder.parent.name}:{folder.name}"
        if not folder.is_dir():
            state = "broken"
            told.append(f"{name} was packaged, and {folder} is gone; {_package(facts)}")
        elif proof is None:
            state = "broken"
            told.append(f"{name} was never confirmed against its golden samples; {_package(facts)}")
        elif not is_whole(folder, proof):
            state = "broken"
            told.append(f"{name} was changed after it was confirmed; {_package(facts)}")
        else:
            told.append(
                f"{name}, confirmed: {proof.bento.num_golden} golden samples at most "
                f"{proof.bento.max_levels_apart} of 255 levels apart"
            )
    if not told and gone:
        lost = f"{gone[0]} was packaged, and is gone from BentoML's store; {_package(facts)}"
        return Link(name="bento", state="broken", told=lost, details={"tags": [gone[0]]})
    if not told:
        return Link(name="bento", state="absent", told="never packaged here")
    return Link(name="bento", state=state, told="; ".join(told), details=details)


def version(facts: Facts) -> Link:
    """The version in the registry and its stored files."""
    found, held = facts.version, facts.held
    if found is None:
        what = "this run" if facts.run else "the model that drew it"
        told = f"{what} has no version in this registry; `aigc-ops register CHECKPOINT` makes one"
        return Link(name="version", state="absent", told=told)
    details: dict[str, JsonValue] = {**found.model_dump(mode="json"), "uri": found.uri}
    if held is None:
        told = f"{found.uri} was deleted from the registry, or its number names another one now"
        return Link(name="version", state="broken", told=told, details=details)
    details |= {"aliases": list(held.aliases), "registered": held.created}
    if facts.damage:
        return Link(name="version", state="broken", told=facts.damage, details=details)
    named = f" ({', '.join(held.aliases)})" if held.aliases else ""
    told = (
        f"{found.uri}{named}, registered {held.created}; its files are those of manifest "
        f"{held.tags[MANIFEST_TAG][:SHORT]}"
    )
    return Link(name="version", state="holds", told=told, details=details)


def decision(facts: Facts) -> Link | None:
    """Who decided on the version, when, why and on what evidence."""
    if facts.version is None:
        return None
    wrong = [facts.log_fault, *(facts.log.problems if facts.log else ()), facts.packet_fault]
    faults = [fault for fault in wrong if fault]
    entries: list[JsonValue] = [entry.model_dump(mode="json") for entry in facts.entries]
    details: dict[str, JsonValue] = {"entries": entries}
    if faults:
        return Link(name="decision", state="broken", told="; ".join(faults), details=details)
    if not facts.entries:
        return Link(name="decision", state="absent", told="nobody has decided on it yet")
    last = facts.entries[-1]
    told = f"{last.action} by {last.who} on {last.time[:19]}: {last.reason}"
    told += f"; the gate said {last.gate}" if last.gate else ""
    told += f"; packet {last.packet_digest[:SHORT]}" if last.packet_digest else ""
    if len(facts.entries) > 1:
        told += f"; {len(facts.entries) - 1} earlier: `aigc-ops audit {last.model}`"
    return Link(name="decision", state="holds", told=told, details=details)


def scores(facts: Facts) -> Link | None:
    """The scores of the version, and that they are its own."""
    if facts.held is None:
        return None
    try:
        found = read_scores(facts.tags)
    except AigcOpsError as error:
        return Link(name="scores", state="broken", told=str(error))
    if found is None:
        return Link(name="scores", state="absent", told="never evaluated")
    details = found.model_dump(mode="json")
    if found.checkpoint_digest not in (facts.tags.get(CHECKPOINT_TAG), facts.tags[MANIFEST_TAG]):
        told = f"its scores are those of another checkpoint, {found.checkpoint_digest[:SHORT]}"
        return Link(name="scores", state="broken", told=told, details=details)
    primary = found.values[found.primary]
    told = (
        f"{found.primary} {primary.value:.4g} ({primary.low:.4g} to {primary.high:.4g}, "
        f"n = {primary.contract.get('n')}), and {len(found.values) - 1} more"
    )
    return Link(name="scores", state="holds", told=told, details=details)


def run(facts: Facts) -> Link | None:
    """The MLflow run that trained the model."""
    if not facts.run_id:
        return None
    details: dict[str, JsonValue] = {"run_id": facts.run_id}
    if facts.run is None:
        told = f"MLflow holds no run {facts.run_id} any more"
        return Link(name="run", state="broken", told=told, details=details)
    details |= {
        "name": facts.run.name,
        "status": facts.run.status,
        "started": facts.run.started,
    }
    if facts.run.is_deleted:
        told = f"{facts.run_id} was deleted; MLflow's UI restores it until `mlflow gc` has run"
        return Link(name="run", state="broken", told=told, details=details)
    told = f"{facts.run_id} {facts.run.name!r}, {facts.run.status}, began {facts.run.started}"
    return Link(name="run", state="holds", told=told, details=details)


def flow_run(facts: Facts) -> Link | None:
    """The Prefect flow runs that decided on the version, the latest first."""
    if facts.version is None:
        return None
    named = [facts.found.flow_run, *(entry.flow_run for entry in reversed(facts.entries))]
    found = list(dict.fromkeys(filter(None, [*named, facts.tags.get(FLOW_RUN_TAG)])))
    if not found:
        told = "no flow run is recorded: it was decided on from the command line, or not yet"
        return Link(name="flow run", state="absent", told=told)
    told = f"{found[0]}; {_prefect_says(found[0])}"
    told += f"; before it {', '.join(found[1:])}" if found[1:] else ""
    return Link(name="flow run", state="holds", told=told, details={"flow_runs": [*found]})


def commit(facts: Facts) -> Link:
    """The commit of the code that trained the model."""
    recorded = facts.provenance.get("revision") or {}
    found = recorded.get("commit") or facts.tags.get(COMMIT_TAG)
    if not found:
        return Link(name="commit", state="absent", told="trained outside a git repository")
    diff = recorded.get("diff_digest") if recorded else facts.tags.get(DIFF_TAG)
    details: dict[str, JsonValue] = {"commit": found, "uncommitted_changes": diff}
    if recorded and facts.held and (other := facts.tags.get(COMMIT_TAG)) != found:
        told = f"the version's tag says {other}, its files say {found}"
        return Link(name="commit", state="broken", told=told, details=details)
    told = found if has_commit(found) else f"{found}, which is not in the repository here"
    told += (
        f", with uncommitted changes (digest {diff[:SHORT]})" if diff else ", nothing uncommitted"
    )
    return Link(name="commit", state="holds", told=told, details=details)


def data(facts: Facts) -> Link:
    """The data that the model was trained on, compared with what lies there now."""
    in_run = facts.run.dataset if facts.run else {}
    digest = facts.provenance.get("dataset_digest") or facts.tags.get(DATASET_TAG)
    digest = digest or in_run.get("content_digest")
    if not digest:
        return Link(name="data", state="absent", told="the run recorded no data")
    dvc = facts.provenance.get("dvc_digest") or facts.tags.get(DVC_TAG) or in_run.get("dvc_digest")
    details: dict[str, JsonValue] = {"content_digest": digest, "dvc_digest": dvc}
    told = digest + (f", pinned by DVC as {dvc}" if dvc else ", not pinned by DVC")
    claims = {
        "the version's tag": facts.tags.get(DATASET_TAG) if facts.held else None,
        "the run": in_run.get("content_digest"),
    }
    for whose, claimed in claims.items():
        if claimed not in (None, digest):
            told = f"{whose} says {claimed[:SHORT]}, the version's files say {digest[:SHORT]}"
            return Link(name="data", state="broken", told=told, details=details)
    place = _place(facts)
    if place is None:
        return Link(
            name="data", state="holds", told=f"{told}; not on this machine", details=details
        )
    details["path"] = str(place)
    try:
        present = _present_digest(place, digest, facts.provenance.get("config") or {})
    except AigcOpsError as error:
        return Link(name="data", state="broken", told=str(error), details=details)
    shown = os.path.relpath(place)
    if present != digest:
        told = (
            f"{shown} holds other data now ({present[:SHORT]}) than it was trained on "
            f"({digest[:SHORT]}); {_bring_back(facts, shown, dvc)}"
        )
        return Link(name="data", state="broken", told=told, details=details)
    return Link(name="data", state="holds", told=f"{told}; {shown} holds it", details=details)


def licences(facts: Facts) -> Link:
    """Licences and sources of the data, as the run recorded them."""
    seen = facts.packet.get("candidate", {}).get("data", {})
    known = (facts.run.dataset if facts.run else None) or seen
    names, sources = _texts(known.get("licences")), _texts(known.get("sources"))
    if not names and not sources:
        return Link(
            name="licences", state="absent", told="the data names none, or was not recorded"
        )
    told = f"{', '.join(names) or 'no licence'}; from {', '.join(sources) or 'no named source'}"
    details: dict[str, JsonValue] = {"licences": list(names), "sources": list(sources)}
    return Link(name="licences", state="holds", told=told, details=details)


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
    return f"`aigc-ops package {facts.version.uri}` makes it again"


def _prefect_says(flow_run: str) -> str:
    server = prefect_http.address()
    if server is None:
        return "no Prefect server is configured to ask (PREFECT_API_URL)"
    try:
        answer = prefect_http.ask(f"flow_runs/{flow_run}")
    except (OSError, ValueError) as error:
        return f"{server} does not answer ({error})"
    if answer is None:
        return f"{server} does not hold it"
    return f"{printable(str(answer.get('name')))}, {printable(str(answer.get('state_name')))}"


def _place(facts: Facts) -> Path | None:
    """Where the data may still lie: as the run saw it, or as the config names it from here."""
    config = (facts.provenance.get("config") or {}).get("data") or {}
    places = [facts.run.dataset_uri if facts.run else None, config.get("path")]
    return next(
        (Path(place).absolute() for place in places if place and Path(place).exists()), None
    )


def _present_digest(place: Path, recorded: str, config: dict[str, Any]) -> str:
    """Digest of the data at a path.

    Data whose names, sizes and times are those of a finished run is not read again.
    """
    from aigc_ops.formats.stat_digest import quick_digest

    quick = quick_digest(place)
    for record in run_cache.kept():
        if (record.data_digest, record.result.dataset.content_digest) == (quick, recorded):
            return recorded
    from aigc_ops.data import DataConfig
    from aigc_ops.data.dataset import present_digest

    settings = DataConfig.model_validate({**(config.get("data") or {}), "path": str(place)})
    return present_digest(place, settings)


def _bring_back(facts: Facts, shown: str, dvc: str | None) -> str:
    commit = (facts.provenance.get("revision") or {}).get("commit")
    if dvc and commit:
        return (
            f"to bring it back: git checkout {commit[:SHORT]} -- '*.dvc' && aigc-ops dvc checkout, "
            "or trace in a clone of that commit"
        )
    return f"it was not pinned by DVC, so nothing else tells what {shown} was"


def _texts(value: Any) -> list[str]:
    return [printable(str(each)) for each in value or ()]

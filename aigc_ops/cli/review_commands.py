"""The commands by which people decide and look back: review, approve, trace, doctor ..."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import ModelVersion, Verdict
from aigc_ops.core.errors import ConfigError

Answer = dict[str, Any]
MARKS = {"holds": " ", "absent": "-", "broken": "!"}


def review(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The version's review packet, opened in a browser by a person at a terminal."""
    from aigc_ops.registry.evidence import PAGE, read_packet

    packet = read_packet(_version(arguments))
    page = Path(packet.folder) / PAGE
    if sys.stdin.isatty() and not arguments.json:
        import webbrowser

        webbrowser.open(page.as_uri())
    ruling = packet.content["ruling"]
    lines = [f"gate: {ruling['outcome']}", *(f"  {reason}" for reason in ruling["reasons"])]
    name = f"{packet.version.name} {packet.version.version}"
    lines += [
        f"packet {packet.packet_digest}",
        f"page   {page}",
        f"decide aigc-ops approve {name} --reviewer NAME --reason WHY   (or reject)",
    ]
    return {**packet.model_dump(mode="json"), "page": str(page)}, lines


def approve(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The verdict after an approval."""
    from aigc_ops.promotion.review import approve as decide

    verdict = decide(
        _version(arguments), who=arguments.reviewer, reason=arguments.reason, seen=arguments.packet
    )
    _tell(verdict.model.name)
    lines = list(verdict.reasons)
    if verdict.promoted:
        uri = verdict.model.uri
        lines += [f"{uri} is champion", f"its Bento: aigc-ops package {uri}"]
    return _dumped(verdict), lines


def reject(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The verdict after a rejection."""
    from aigc_ops.promotion.review import reject as decide

    verdict = decide(
        _version(arguments), who=arguments.reviewer, reason=arguments.reason, seen=arguments.packet
    )
    _tell(verdict.model.name)
    return _dumped(verdict), list(verdict.reasons)


def rollback(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The entry of the log, and the earlier champion's Bento."""
    from aigc_ops.promotion.review import rollback as decide
    from aigc_ops.registry.versions import champion
    from aigc_ops.serving.bento.store import find_bento

    entry = decide(arguments.name, arguments.to, who=arguments.reviewer, reason=arguments.reason)
    _tell(arguments.name)
    version = champion(arguments.name)
    bento = find_bento(version) if version else None
    lines = [f"models:/{entry.model}/{entry.version} is champion again"]
    lines.append(
        f"its Bento: {bento.tag}"
        if bento
        else f"it has no Bento here: aigc-ops package models:/{entry.model}/{entry.version}"
    )
    answer = {**entry.model_dump(mode="json"), "bento": bento and bento.model_dump(mode="json")}
    return answer, lines


def audit(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Each model's log, verified; `failed` when something is wrong with one."""
    from aigc_ops.registry.audit_log import audit as verify
    from aigc_ops.registry.versions import models

    names = [arguments.name] if arguments.name else sorted({row.name for row in models()})
    logs = [verify(name) for name in names]
    lines = []
    for log in logs:
        lines.append(f"{log.model}: {len(log.entries)} entries, {len(log.problems)} problems")
        for e in log.entries:
            did = f"{e.action} version {e.version}"
            lines.append(f"  {e.number:>3}  {e.time[:19]}  {did}  by {e.who}: {e.reason}")
        lines += [f"  PROBLEM: {problem}" for problem in log.problems]
    answer = {"logs": [log.model_dump(mode="json") for log in logs]}
    return {**answer, "failed": any(log.problems for log in logs)}, lines


def trace(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The line behind a reference; `failed` when a link of it does not hold."""
    from aigc_ops.lineage import trace as follow

    line = follow(arguments.ref)
    lines = [f"{MARKS[link.state]} {link.name:<9} {link.told}" for link in line.links]
    if line.others:
        lines.append(f"  it leads to {len(line.others)} more: {', '.join(line.others)}")
    if line.broken:
        lines.append(f"{len(line.broken)} links do not hold")
    answer = {**line.model_dump(mode="json"), "broken": list(line.broken)}
    return {**answer, "failed": bool(line.broken)}, lines


def doctor(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """What each check of the installation and the stores found."""
    from aigc_ops.operations.doctor import examine

    findings = examine(repair=arguments.repair, revert=arguments.revert, every=arguments.all)
    lines = []
    for each in findings:
        lines.append(f"{each.state:<4} {each.check}: {each.found}")
        lines += [f"       {each.advice}"] if each.advice else []
    answer = {"checks": [each.model_dump(mode="json") for each in findings]}
    return {**answer, "failed": any(each.state == "FAIL" for each in findings)}, lines


COMMANDS = {
    "review": review,
    "approve": approve,
    "reject": reject,
    "rollback": rollback,
    "audit": audit,
    "trace": trace,
    "doctor": doctor,
}


def _version(arguments: argparse.Namespace) -> ModelVersion:
    from aigc_ops.pipeline import chain

    model = arguments.model
    if arguments.version is not None:
        if model.startswith("models:/"):
            raise ConfigError(f"{model} {arguments.version}: give a name and a version, or a URI")
        model = f"models:/{model}/{arguments.version}"
    elif not model.startswith("models:/"):
        model = f"models:/{model}@challenger"
    return chain.version_of(model)


def _tell(name: str) -> None:
    """Tell a Prefect server, where one is configured, of the model's last decision."""
    if os.environ.get("PREFECT_API_URL"):
        from aigc_ops.registry.audit_log import audit as verify
        from flows.notifications import tell_entry

        tell_entry(verify(name).entries[-1])


def _dumped(verdict: Verdict) -> Answer:
    return verdict.model_dump(mode="json")

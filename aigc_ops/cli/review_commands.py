"""The commands for decisions and inspection: review, approve, reject, trace, audit, doctor."""

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
"""The first character of a line of `trace`, by the state of the check."""


def review_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Return a version's review packet; open its page if this is a terminal."""
    from aigc_ops.registry.evidence import PAGE, read_packet

    packet = read_packet(_version(arguments))
    page = Path(packet.folder) / PAGE
    # No browser for scripts, tests and --json.
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


def approve_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Approve a version and return the verdict."""
    from aigc_ops.promotion.review import approve

    verdict = approve(
        _version(arguments), who=arguments.reviewer, reason=arguments.reason, seen=arguments.packet
    )
    _emit_last_decision(verdict.model.name)
    lines = list(verdict.reasons)
    # An approval does not promote yet where the config requires a second reviewer.
    if verdict.promoted:
        uri = verdict.model.uri
        lines += [f"{uri} is champion", f"its Bento: aigc-ops package {uri}"]
    return _dumped(verdict), lines


def reject_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Reject a version and return the verdict."""
    from aigc_ops.promotion.review import reject

    verdict = reject(
        _version(arguments), who=arguments.reviewer, reason=arguments.reason, seen=arguments.packet
    )
    _emit_last_decision(verdict.model.name)
    return _dumped(verdict), list(verdict.reasons)


def rollback_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Make an earlier champion champion again; return the audit entry and its Bento."""
    from aigc_ops.promotion.review import rollback
    from aigc_ops.registry.versions import champion
    from aigc_ops.serving.bento.store import find_bento

    entry = rollback(arguments.name, arguments.to, who=arguments.reviewer, reason=arguments.reason)
    _emit_last_decision(arguments.name)
    # Its Bento may have been removed since: then the message says how to build it again.
    version = champion(arguments.name)
    bento = find_bento(version) if version else None
    uri = f"models:/{entry.model}/{entry.version}"
    missing = f"it has no Bento in this store; run: aigc-ops package {uri}"
    lines = [f"{uri} is champion again", f"its Bento: {bento.tag}" if bento else missing]
    answer = {**entry.model_dump(mode="json"), "bento": bento and bento.model_dump(mode="json")}
    return answer, lines


def audit_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Verify the audit log of one or all models; `failed` if a log has a problem."""
    from aigc_ops.registry.audit_log import audit
    from aigc_ops.registry.versions import models

    names = [arguments.name] if arguments.name else sorted({row.name for row in models()})
    logs = [audit(name) for name in names]
    lines = []
    for log in logs:
        lines.append(f"{log.model}: {len(log.entries)} entries, {len(log.problems)} problems")
        for e in log.entries:
            # Times are ISO 8601: the first 19 characters are date and time to the second.
            action = f"{e.action} version {e.version}"
            lines.append(f"  {e.number:>3}  {e.time[:19]}  {action}  by {e.who}: {e.reason}")
        lines += [f"  PROBLEM: {problem}" for problem in log.problems]
    answer = {"logs": [log.model_dump(mode="json") for log in logs]}
    return {**answer, "failed": any(log.problems for log in logs)}, lines


def trace_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Return the lineage of a reference; `failed` if one of its checks fails."""
    from aigc_ops.lineage import trace

    lineage = trace(arguments.ref)
    lines = [f"{MARKS[link.state]} {link.name:<9} {link.message}" for link in lineage.links]
    # A dataset's digest may lead to several versions: one is traced, the others are named.
    if lineage.others:
        lines.append(f"  also leads to {len(lineage.others)} more: {', '.join(lineage.others)}")
    if lineage.broken:
        lines.append(f"{len(lineage.broken)} checks failed")
    # `broken` is a property, which model_dump leaves out.
    answer = {**lineage.model_dump(mode="json"), "broken": list(lineage.broken)}
    return {**answer, "failed": bool(lineage.broken)}, lines


def doctor_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Check the installation and the stores; `failed` if a check fails."""
    from aigc_ops.operations.doctor import examine

    findings = examine(repair=arguments.repair, revert=arguments.revert, every=arguments.all)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<4} {finding.check}: {finding.found}")
        lines += [f"       {finding.advice}"] if finding.advice else []
    answer = {"checks": [finding.model_dump(mode="json") for finding in findings]}
    # A warning is no failure: scripts check the exit code.
    return {**answer, "failed": any(finding.state == "FAIL" for finding in findings)}, lines


COMMANDS = {
    "review": review_command,
    "approve": approve_command,
    "reject": reject_command,
    "rollback": rollback_command,
    "audit": audit_command,
    "trace": trace_command,
    "doctor": doctor_command,
}


def _version(arguments: argparse.Namespace) -> ModelVersion:
    from aigc_ops.pipeline import chain

    # NAME VERSION, a URI, or NAME alone, which means its latest challenger.
    model = arguments.model
    if arguments.version is not None:
        if model.startswith("models:/"):
            raise ConfigError(f"{model} {arguments.version}: give a name and a version, or a URI")
        model = f"models:/{model}/{arguments.version}"
    elif not model.startswith("models:/"):
        model = f"models:/{model}@challenger"
    return chain.version_of(model)


def _emit_last_decision(name: str) -> None:
    """Emit a model's last decision as a Prefect event, if a server is configured."""
    # Checked here as well, since `flows` imports Prefect, which takes seconds.
    if os.environ.get("PREFECT_API_URL"):
        from aigc_ops.registry.audit_log import audit
        from flows.notifications import emit_decision

        emit_decision(audit(name).entries[-1])


def _dumped(verdict: Verdict) -> Answer:
    return verdict.model_dump(mode="json")

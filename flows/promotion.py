"""Reviews and rollbacks in the Prefect UI, and the guard that checks aliases."""

from typing import Any, Literal

from prefect import Task, flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from aigc_ops.core.artifacts import ModelVersion, Record, Verdict, json_digest
from aigc_ops.core.errors import DecisionError, RegistryError, StaleDecision
from aigc_ops.core.escaping import markdown
from aigc_ops.pipeline import chain, stage_records
from aigc_ops.promotion import review as people
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.packet import pictures_of
from aigc_ops.registry import ui_links
from aigc_ops.registry.aliases import Decision, last_decision, reconcile
from aigc_ops.registry.audit_log import Entry, audit
from aigc_ops.registry.evidence import StoredPacket, read_packet
from aigc_ops.registry.versions import models
from flows import stages
from flows.notifications import emit, emit_decision, emit_verdict
from flows.runtime.process import prepare

REVIEW = "aigc-ops-review/review"
# Bounds a review that is answered without a valid decision again and again.
MAX_ATTEMPTS = 100


class PacketShown(Record):
    """A record that a flow run has shown the evidence of a packet."""

    packet_digest: str


class ReviewForm(RunInput):
    """The decision on a version."""

    decision: Literal["approve", "reject", "more samples"] = Field(
        description="more samples: evaluate the version again with twice as many."
    )
    reviewer: str = Field(min_length=1, max_length=80, description="Your name.")
    reason: str = Field(
        min_length=1, max_length=500, description="Reason, which is stored in the audit log."
    )
    packet: str = Field(
        min_length=people.MIN_DIGEST,
        description="Digest of the evidence that you saw; do not change it.",
    )

    @classmethod
    def about(cls, packet: StoredPacket, description: str) -> type["ReviewForm"]:
        """Return the form for a packet, with the packet's digest filled in."""
        # Filled in by the UI, through the schema. It is not a default of the field: a program that
        # answers through the API must name the packet that it decides on.
        shown: Any = Field(
            min_length=people.MIN_DIGEST,
            description=cls.model_fields["packet"].description,
            json_schema_extra={"default": packet.packet_digest},
        )
        return cls.with_initial_data(description=description, packet=shown)


@flow(
    name="aigc-ops-review",
    flow_run_name="review-{model}-{version}",
    persist_result=True,
    result_serializer="json",
)
def review(model: str, version: int) -> Verdict:
    """Wait for a reviewer's decision on a version, without a time limit, and carry it out.

    The run is suspended: no process waits, and a restart of the server changes nothing. A form
    without a name or a reason is shown again. If the champion has changed since, the version is
    evaluated again and shown again. A decision that was made already is not repeated.

    Args:
        model: Registered model's name.
        version: Number of the version that waits for a decision.
    """
    # Prefect runs a suspended flow again from the top, with the answers so far. Everything before
    # the last question is therefore repeated, and must have no effect the second time.
    prepare()
    candidate = chain.version_of(f"models:/{model}/{version}")
    complaint, done = "", _own_entries(candidate)
    for attempt in range(MAX_ATTEMPTS):
        # 1. Show the evidence and ask. The key finds the answer of an earlier pass.
        packet = read_packet(candidate)
        _show_evidence(packet)
        form = suspend_flow_run(
            wait_for_input=ReviewForm.about(packet, _question(packet, complaint)),
            key=f"decision-{attempt}",
        )
        # 2. The form's own rule (at least one character) accepts blanks.
        if not (form.reason.strip() and form.reviewer.strip()):
            complaint = "A decision needs a name and a reason; one of them was empty."
            continue
        # 3. Carry the answer out. Outdated evidence is replaced, and other errors are shown with
        # the next form, unless somebody else has decided meanwhile.
        complaint = ""
        try:
            verdict = _carry_out(candidate, form, done)
        except StaleDecision as error:
            complaint = f"{error} It was evaluated again: this is the new evidence."
            verdict = _evaluate_once(candidate, done, times=1)
        except DecisionError as error:
            if _is_decided(candidate):
                raise
            complaint = str(error)
            continue
        # 4. Ask again, or show the decision and package a new champion.
        if verdict.waiting:
            complaint = complaint or "; ".join(verdict.reasons)
        else:
            _show_decision(verdict)
            stages.package_if_champion(chain.config_of(chain.resolve(candidate.uri)), verdict)
            return verdict
    raise StaleDecision(f"{candidate.uri}: no decision after {MAX_ATTEMPTS} forms")


def _own_entries(candidate: ModelVersion) -> list[Entry]:
    """Return the audit entries that this flow run has written in earlier passes."""
    return [
        entry
        for entry in audit(candidate.name).entries
        if entry.flow_run == str(flow_run.id)
        and entry.action in ("approve", "promote", "reject", "challenge", "hold")
    ]


def _is_decided(candidate: ModelVersion) -> bool:
    last = last_decision(candidate)
    return last is not None and last.action in ("promote", "reject", "rollback")


def _carry_out(candidate: ModelVersion, form: ReviewForm, done: list[Entry]) -> Verdict:
    """Carry an answer out, or return the verdict of its entry in `done` and remove that."""
    if form.decision == "more samples":
        return _evaluate_once(candidate, done, times=2)
    # `Decision` normalises name and reason as the audit log stores them: so they can be compared.
    decision = Decision(who=form.reviewer, reason=form.reason)
    if done and (done[0].who, done[0].reason) == (decision.who, decision.reason):
        return people.verdict_of(candidate, done.pop(0))
    decide = people.approve if form.decision == "approve" else people.reject
    verdict = decide(
        candidate, who=form.reviewer, reason=form.reason, seen=form.packet, flow_run=flow_run.id
    )
    emit_decision(audit(candidate.name).entries[-1])
    return verdict


def _evaluate(candidate: ModelVersion, times: int) -> Verdict:
    """Compare the version with the present champion, with `times` as many samples."""
    # The policy of the last packet, not of the stored config: it holds the number of samples so
    # far, and the number of reviewers that a flag may have set.
    config = chain.config_of(chain.resolve(candidate.uri))
    policy = PromotionConfig.model_validate(read_packet(candidate).content["promotion"])
    num = min(policy.max_samples * times, 1_000_000)
    promotion = policy.model_copy(update={"approval": "review", "max_samples": num})
    config = config.model_copy(update={"promotion": promotion})
    verdict = chain.promote_stage(config, chain.open_data(config), candidate, flow_run=flow_run.id)
    # The review goes on whatever the gate's outcome is, until a person has decided.
    return verdict.model_copy(update={"waiting": not verdict.promoted})


def _evaluate_once(candidate: ModelVersion, done: list[Entry], *, times: int) -> Verdict:
    """Evaluate the version, or return the verdict of an evaluation in an earlier pass."""
    # An evaluation takes minutes, and would make a new packet in each pass.
    if done and done[0].action in ("challenge", "hold"):
        return people.verdict_of(candidate, done.pop(0))
    return _EVALUATE(candidate, times)


_EVALUATE = Task(
    fn=_evaluate,
    name="weigh",  # as in earlier releases, so that runs can be found by it
    task_run_name="weigh-{candidate.name}-{candidate.version}",
    cache_policy=NO_CACHE,
    persist_result=False,
)


def _question(packet: StoredPacket, complaint: str) -> str:
    """Return the Markdown text above the form's fields."""
    ruling, name = packet.content["ruling"], packet.version.name
    against = f"champion {packet.champion}" if packet.champion else "no champion yet"
    link = ui_links.packet_link(packet.version, packet.packet_digest)
    lines = [f"**{markdown(complaint)}**", ""] if complaint else []
    lines += [
        f"## {markdown(name)}: version {packet.version.version} against {against}",
        "",
        f"Gate outcome: **{ruling['outcome']}**.",
        "",
        *(f"- {markdown(reason)}" for reason in ruling["reasons"]),
        "",
        f"Look at the evidence first: [review packet]({link}), or",
        f"`aigc-ops review {name} {packet.version.version}`.",
        "",
        f"Packet `{packet.packet_digest}`",
    ]
    return "\n".join(lines)


def _show_evidence(packet: StoredPacket) -> None:
    """Show the gate's reasons and the packet's images as artifacts, once per packet."""

    # The stored record prevents a second set of artifacts in each later pass.
    def show() -> PacketShown:
        _EVIDENCE(packet)
        return PacketShown(packet_digest=packet.packet_digest)

    key = json_digest(["evidence", str(flow_run.id), packet.packet_digest])
    stage_records.recall_or_compute(key, PacketShown, show)


def _create_artifacts(packet: StoredPacket) -> None:
    create_markdown_artifact(_question(packet, ""), key="review-packet")
    for caption, url in pictures_of(packet):
        create_image_artifact(url, key="review-samples", description=markdown(caption))


_EVIDENCE = Task(
    fn=_create_artifacts,
    name="evidence",
    task_run_name="evidence-{packet.version.name}-{packet.version.version}",
    cache_policy=NO_CACHE,
    persist_result=False,
)


def _show_decision(verdict: Verdict) -> None:
    reasons = "\n".join(f"- {markdown(reason)}" for reason in verdict.reasons)
    what = "is champion" if verdict.promoted else "was not promoted"
    create_markdown_artifact(f"**{verdict.model.uri}** {what}.\n\n{reasons}", key="decision")


def ask_for_review(verdict: Verdict) -> None:
    """Emit the verdict; if it waits for a decision, start a review on the Prefect server."""
    emit_verdict(verdict)
    if not verdict.waiting:
        return
    log, name, number = get_run_logger(), verdict.model.name, verdict.model.version
    try:
        run_deployment(
            REVIEW,
            parameters={"model": name, "version": number},
            timeout=0,  # do not wait for the review's end
            # A repeated run with the same packet finds the review that waits already.
            idempotency_key=f"review-{verdict.packet_digest}",
            as_subflow=False,
        )
        log.info("%s waits for a decision: the run review-%s-%s", verdict.model.uri, name, number)
    # The deployment exists only where `python -m flows` or a worker serves it.
    except ObjectNotFound:
        log.info(
            "%s waits for a decision: aigc-ops review %s %s, then approve or reject; "
            "with `python -m flows` reviews are possible in the Prefect UI",
            *(verdict.model.uri, name, number),
        )


@flow(name="aigc-ops-rollback", flow_run_name="rollback-{model}", result_serializer="json")
def rollback(model: str, reviewer: str, reason: str, to: int | None = None) -> Entry:
    """Make an earlier champion champion again: the previous one, or version `to`.

    Args:
        model: Registered model's name.
        reviewer: Your name.
        reason: Reason, which is stored in the audit log.
        to: Number of a version that was champion before; empty: the previous champion.
    """
    prepare()
    entry = people.rollback(model, to, who=reviewer, reason=reason, flow_run=flow_run.id)
    emit_decision(entry)
    get_run_logger().info("models:/%s/%s is champion again", entry.model, entry.version)
    return entry


@flow(name="aigc-ops-guard", result_serializer="json")
def guard(mode: Literal["flag", "revert"] = "flag") -> dict[str, list[str]]:
    """Find aliases that were moved outside aigc-ops; with mode `revert` restore them.

    Every model is checked. A damaged audit log fails the run after the last check.

    Args:
        mode: flag: report them; revert: report and restore them.
    """
    prepare()
    changes, faults = {}, []
    for name in sorted({row.name for row in models()}):
        try:
            moved = reconcile(name, mode)
        except RegistryError as error:  # a damaged log must not prevent the other checks
            faults.append(f"{name}: {error}")
            get_run_logger().error(faults[-1])
            continue
        if moved:
            changes[name] = moved
            text = "; ".join(moved) + (" (restored)" if mode == "revert" else "")
            get_run_logger().warning("%s: %s", name, text)
            emit("alias.moved-by-hand", name, 0, text)
    if faults:
        raise RegistryError("; ".join(faults))
    return changes

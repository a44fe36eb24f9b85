"""What people decide in the Prefect UI: reviews and rollbacks; and the guard over aliases."""

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

from aigc_ops.core.artifacts import ModelVersion, Noun, Verdict, json_digest
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
from flows.notifications import tell, tell_entry, tell_verdict
from flows.runtime.process import prepare

REVIEW = "aigc-ops-review/review"
MAX_ATTEMPTS = 100


class PacketShown(Noun):
    """A packet whose evidence a flow run has shown."""

    packet_digest: str


class ReviewForm(RunInput):
    """The decision on a version."""

    decision: Literal["approve", "reject", "more samples"] = Field(
        description="more samples: weigh the version anew with twice as many."
    )
    reviewer: str = Field(min_length=1, max_length=80, description="Your name.")
    reason: str = Field(min_length=1, max_length=500, description="Why, for whoever asks later.")
    packet: str = Field(
        min_length=people.MIN_DIGEST, description="The evidence that you saw; leave it as it is."
    )

    @classmethod
    def about(cls, packet: StoredPacket, description: str) -> type["ReviewForm"]:
        """The form as a person sees it, filled in with the packet; an API's caller must name it."""
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
    """Wait for a person's decision on a version, however long, and carry it out.

    The run is suspended, not paused: no process waits, and restarts change nothing. A form
    without a name or a reason is asked for again; where the champion has changed since, the
    version is weighed anew and shown again. What was decided already is not decided twice.

    Args:
        model: Registered model's name.
        version: Number of the version that waits for a decision.
    """
    prepare()
    candidate = chain.version_of(f"models:/{model}/{version}")
    complaint, done = "", _done_here(candidate)
    for attempt in range(MAX_ATTEMPTS):
        packet = read_packet(candidate)
        _show_evidence(packet)
        form = suspend_flow_run(
            wait_for_input=ReviewForm.about(packet, _question(packet, complaint)),
            key=f"decision-{attempt}",
        )
        if not (form.reason.strip() and form.reviewer.strip()):
            complaint = "A decision names who took it and why: the name or the reason was empty."
            continue
        complaint = ""
        try:
            verdict = _answered(candidate, form, done)
        except StaleDecision as error:
            complaint = f"{error} It was weighed anew: this is the evidence now."
            verdict = _weigh_anew(candidate, done, times=1)
        except DecisionError as error:
            if _is_decided(candidate):
                raise
            complaint = str(error)
            continue
        if verdict.waiting:
            complaint = complaint or "; ".join(verdict.reasons)
        else:
            _show(verdict)
            stages.package_if_champion(chain.config_of(chain.resolve(candidate.uri)), verdict)
            return verdict
    raise StaleDecision(f"{candidate.uri} was asked about {MAX_ATTEMPTS} times without a decision")


def _done_here(candidate: ModelVersion) -> list[Entry]:
    """Return what this flow run decided and weighed before it was suspended or cut short."""
    return [
        entry
        for entry in audit(candidate.name).entries
        if entry.flow_run == str(flow_run.id)
        and entry.action in ("approve", "promote", "reject", "challenge")
    ]


def _is_decided(candidate: ModelVersion) -> bool:
    last = last_decision(candidate)
    return last is not None and last.action in ("promote", "reject", "rollback")


def _answered(candidate: ModelVersion, form: ReviewForm, done: list[Entry]) -> Verdict:
    """Carry the form out; what a rerun finds done already is taken from `done`."""
    if form.decision == "more samples":
        return _weigh_anew(candidate, done, times=2)
    said = Decision(who=form.reviewer, reason=form.reason)
    if done and (done[0].who, done[0].reason) == (said.who, said.reason):
        return people.verdict_of(candidate, done.pop(0))
    decide = people.approve if form.decision == "approve" else people.reject
    verdict = decide(
        candidate, who=form.reviewer, reason=form.reason, seen=form.packet, flow_run=flow_run.id
    )
    tell_entry(audit(candidate.name).entries[-1])
    return verdict


def _weigh(candidate: ModelVersion, times: int) -> Verdict:
    """Weigh the version against the champion of the moment, with `times` the samples.

    The rest of the policy, reviewers foremost, stays that of the packet before.
    """
    config = chain.config_of(chain.resolve(candidate.uri))
    policy = PromotionConfig.model_validate(read_packet(candidate).content["promotion"])
    num = min(policy.max_samples * times, 1_000_000)
    promotion = policy.model_copy(update={"approval": "review", "max_samples": num})
    config = config.model_copy(update={"promotion": promotion})
    verdict = chain.promote_stage(config, chain.open_data(config), candidate, flow_run=flow_run.id)
    return verdict.model_copy(update={"waiting": not verdict.promoted})


def _weigh_anew(candidate: ModelVersion, done: list[Entry], *, times: int) -> Verdict:
    """Weigh once for each answer: a suspended flow runs again from its top."""
    if done and done[0].action == "challenge":
        return people.verdict_of(candidate, done.pop(0))
    return _WEIGH(candidate, times)


_WEIGH = Task(
    fn=_weigh,
    name="weigh",
    task_run_name="weigh-{candidate.name}-{candidate.version}",
    cache_policy=NO_CACHE,
    persist_result=False,
)


def _question(packet: StoredPacket, complaint: str) -> str:
    """What the form shows above its fields, Markdown."""
    ruling, name = packet.content["ruling"], packet.version.name
    against = f"champion {packet.champion}" if packet.champion else "no champion yet"
    link = ui_links.packet_link(packet.version, packet.packet_digest)
    lines = [f"**{markdown(complaint)}**", ""] if complaint else []
    lines += [
        f"## {markdown(name)}: version {packet.version.version} against {against}",
        "",
        f"The gate says **{ruling['outcome']}**.",
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
    """Show the gate's reasons and the packet's pictures among the run's artifacts, once a packet.

    A suspended flow runs again from its top.
    """

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


def _show(verdict: Verdict) -> None:
    reasons = "\n".join(f"- {markdown(reason)}" for reason in verdict.reasons)
    what = "is champion" if verdict.promoted else "was not promoted"
    create_markdown_artifact(f"**{verdict.model.uri}** {what}.\n\n{reasons}", key="decision")


def ask_for_review(verdict: Verdict) -> None:
    """Start the review of a version that waits, where the server offers reviews; once a packet."""
    tell_verdict(verdict)
    if not verdict.waiting:
        return
    log, name, number = get_run_logger(), verdict.model.name, verdict.model.version
    try:
        run_deployment(
            REVIEW,
            parameters={"model": name, "version": number},
            timeout=0,
            idempotency_key=f"review-{verdict.packet_digest}",
            as_subflow=False,
        )
        log.info("%s waits for a decision: the run review-%s-%s", verdict.model.uri, name, number)
    except ObjectNotFound:
        log.info(
            "%s waits for a decision: aigc-ops review %s %s, then approve or reject; "
            "`python -m flows` offers reviews in the Prefect UI",
            *(verdict.model.uri, name, number),
        )


@flow(name="aigc-ops-rollback", flow_run_name="rollback-{model}", result_serializer="json")
def rollback(model: str, reviewer: str, reason: str, to: int | None = None) -> Entry:
    """Make an earlier champion champion again: the one before this, or version `to`.

    Args:
        model: Registered model's name.
        reviewer: Your name.
        reason: Why, for whoever asks later.
        to: Number of a version that was champion before; empty: the one before this.
    """
    prepare()
    entry = people.rollback(model, to, who=reviewer, reason=reason, flow_run=flow_run.id)
    tell_entry(entry)
    get_run_logger().info("models:/%s/%s is champion again", entry.model, entry.version)
    return entry


@flow(name="aigc-ops-guard", result_serializer="json")
def guard(mode: Literal["flag", "revert"] = "flag") -> dict[str, list[str]]:
    """Find aliases that were moved outside aigc-ops, and put them back where `mode` says so.

    Every model is looked at; one whose log is damaged fails the run at its end.

    Args:
        mode: flag: tell of them; revert: put them back as well.
    """
    prepare()
    found, faults = {}, []
    for name in sorted({row.name for row in models()}):
        try:
            moved = reconcile(name, mode)
        except RegistryError as error:  # the others are looked at all the same
            faults.append(f"{name}: {error}")
            get_run_logger().error(faults[-1])
            continue
        if moved:
            found[name] = moved
            text = "; ".join(moved) + (" (put back)" if mode == "revert" else "")
            get_run_logger().warning("%s: %s", name, text)
            tell("alias.moved-by-hand", name, 0, text)
    if faults:
        raise RegistryError("; ".join(faults))
    return found

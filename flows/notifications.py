"""Prefect events about models, which automations forward as chat messages."""

import os
from datetime import timedelta
from typing import Any, Literal

from pydantic import SecretStr

from aigc_ops.core.artifacts import Verdict
from aigc_ops.registry.audit_log import Entry

Event = Literal[
    "candidate.ready", "gate.kept", "decision.approved", "decision.rejected", "champion.changed",
    "champion.rolled-back", "alias.moved-by-hand",
]  # fmt: skip


AUTOMATION = "aigc-ops messages"
# A Jinja template that Prefect's server renders. Slack treats `<!channel>` and `<URL|name>` as
# markup, so a reason that contains such text is escaped.
ESCAPED = "replace('&', '&amp;') | replace('<', '&lt;') | replace('>', '&gt;')"
PAYLOAD = '{"text": {{ event.payload.text | ' + ESCAPED + " | tojson }}}"


def emit(event: Event, model: str, version: int, text: str) -> None:
    """Emit the event `aigc-ops.EVENT` about a model, if a Prefect server is configured.

    The payload holds `model`, `version` and `text`, a sentence for people.
    """
    # Without a server that outlives this process nobody could receive the event.
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    emit_event(
        event=f"aigc-ops.{event}",
        resource={
            "prefect.resource.id": f"aigc-ops.model.{model}",
            "prefect.resource.name": f"{model}/{version}",
        },
        payload={"model": model, "version": version, "text": text},
    )


def emit_verdict(verdict: Verdict) -> None:
    """Emit the verdict of the promote stage or of a reviewer."""
    name, number, why = verdict.model.name, verdict.model.version, "; ".join(verdict.reasons)
    if verdict.promoted and not verdict.packet_digest:
        return  # it was champion before: nothing was evaluated, nothing changed
    if verdict.promoted:
        emit("champion.changed", name, number, f"{verdict.model.uri} is champion: {why}")
    elif verdict.waiting:
        review = f"aigc-ops review {name} {number}"
        emit("candidate.ready", name, number, f"{verdict.model.uri} waits: {review}. {why}")
    # `keep` is the recorded name of a rejection by the gate.
    elif verdict.gate == "keep":
        emit("gate.kept", name, number, f"{verdict.model.uri} was rejected by the gate: {why}")


def emit_decision(entry: Entry) -> None:
    """Emit a reviewer's decision from its entry in the audit log."""
    # With several required reviewers only the last approval is logged as `promote`.
    events: dict[str, tuple[tuple[Event, str], ...]] = {
        "approve": (("decision.approved", "approve"),),
        "promote": (("decision.approved", "approve"), ("champion.changed", "promote")),
        "reject": (("decision.rejected", "reject"),),
        "rollback": (("champion.rolled-back", "rollback to"),),
    }
    for event, action in events.get(entry.action, ()):
        text = f"{action} models:/{entry.model}/{entry.version} by {entry.who}: {entry.reason}"
        emit(event, entry.model, entry.version, text)


def send_to(url: str) -> None:
    """Make the Prefect server post a JSON object with `text` to a web hook for each event.

    Slack's incoming web hooks, and those of most chats, accept it. Another call replaces the URL.
    """
    from prefect.automations import Automation, EventTrigger, Posture, ResourceSpecification
    from prefect.blocks.webhook import Webhook
    from prefect.events.actions import CallWebhook

    block: Any = Webhook(url=SecretStr(url))
    trigger = EventTrigger(
        expect={"aigc-ops.*"},
        match=ResourceSpecification({"prefect.resource.id": "aigc-ops.model.*"}),
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    # In a block the URL is stored as a secret: everyone who knows it can post to the channel.
    action = CallWebhook(
        block_document_id=block.save("aigc-ops-messages", overwrite=True),
        payload=PAYLOAD,
    )
    automation = Automation(name=AUTOMATION, trigger=trigger, actions=[action])
    # An existing automation is updated: a second one would send every message twice.
    try:
        existing: Any = Automation.read(name=AUTOMATION)
    except ValueError:  # no automation of this name
        automation.create()
        return
    automation.id = existing.id
    automation.update()

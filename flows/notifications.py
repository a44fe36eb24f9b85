"""What others are told of a model: Prefect events, which automations turn into messages."""

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
ESCAPED = "replace('&', '&amp;') | replace('<', '&lt;') | replace('>', '&gt;')"
PAYLOAD = '{"text": {{ event.payload.text | ' + ESCAPED + " | tojson }}}"


def tell(event: Event, model: str, version: int, text: str) -> None:
    """Emit `aigc-ops.EVENT` on the model; nothing where no Prefect server is configured.

    The payload holds `model`, `version` and `text`, a sentence for people.
    """
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


def tell_verdict(verdict: Verdict) -> None:
    """Tell what the promote stage, or a person, said of a version."""
    name, number, why = verdict.model.name, verdict.model.version, "; ".join(verdict.reasons)
    if verdict.promoted and not verdict.packet_digest:
        return  # it was champion before: nothing was weighed, nothing changed
    if verdict.promoted:
        tell("champion.changed", name, number, f"{verdict.model.uri} is champion: {why}")
    elif verdict.waiting:
        review = f"aigc-ops review {name} {number}"
        tell("candidate.ready", name, number, f"{verdict.model.uri} waits: {review}. {why}")
    elif verdict.gate == "keep":
        tell("gate.kept", name, number, f"{verdict.model.uri} was kept back: {why}")


def tell_entry(entry: Entry) -> None:
    """Tell of a person's decision as the log has it; the last approval changes the champion too."""
    events: dict[str, tuple[tuple[Event, str], ...]] = {
        "approve": (("decision.approved", "approve"),),
        "promote": (("decision.approved", "approve"), ("champion.changed", "promote")),
        "reject": (("decision.rejected", "reject"),),
        "rollback": (("champion.rolled-back", "rollback to"),),
    }
    for event, did in events.get(entry.action, ()):
        text = f"{did} models:/{entry.model}/{entry.version} by {entry.who}: {entry.reason}"
        tell(event, entry.model, entry.version, text)


def send_to(url: str) -> None:
    """Have the Prefect server post a JSON object with `text` to a web hook for each event.

    Slack's incoming web hooks, and those of most chats, take it as it is; `&`, `<` and `>` are
    escaped as Slack wants it, so that no reason calls a channel or shows a link under another
    name. Called again, it puts the new address in the place of the old one.
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
    action = CallWebhook(
        block_document_id=block.save("aigc-ops-messages", overwrite=True),
        payload=PAYLOAD,
    )
    automation = Automation(name=AUTOMATION, trigger=trigger, actions=[action])
    try:
        known: Any = Automation.read(name=AUTOMATION)
    except ValueError:  # there is none of this name
        automation.create()
        return
    automation.id = known.id
    automation.update()

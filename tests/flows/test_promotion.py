"""What is told of decisions, the rollback, and the guard where one model's log is damaged."""

import json
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from prefect.server.utilities.user_templates import render_user_template_sync

from aigc_ops.core.artifacts import ModelVersion, Verdict
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.audit_log import ENTRY_TAG, Entry
from aigc_ops.registry.client import connect
from aigc_ops.registry.registration import register
from aigc_ops.registry.versions import champion
from flows import notifications
from flows.promotion import guard, rollback
from tests.registry.conftest import (  # noqa: F401
    MakeCheckpoint,
    crown,
    empty_database,
    make_checkpoint,
    store,
)

VERSION = ModelVersion(name="pets", version=2, run_id="r", manifest_digest="m")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Events as they are emitted, with their texts."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(
        notifications, "emit", lambda event, name, number, text: found.append((event, text))
    )
    return found


def verdict_of(**fields: Any) -> Verdict:
    known = {"model": VERSION, "alias": "challenger", "champion": VERSION, "reasons": ("why",)}
    return Verdict.model_validate({**known, "packet_digest": "p" * 64, **fields})


def entry_of(action: str) -> Entry:
    fields = {"number": 1, "time": "now", "model": "pets", "version": 2, "before": {}, "after": {}}
    said = {"who": "Ann", "reason": "why", "previous": "0" * 64}
    return Entry.model_validate({**fields, **said, "action": action})


def test_each_decision_is_told_once_and_a_standing_champion_not_again(
    told: list[tuple[str, str]],
) -> None:
    notifications.emit_verdict(verdict_of(promoted=True, alias="champion"))
    notifications.emit_verdict(verdict_of(promoted=True, alias="champion", packet_digest=None))
    notifications.emit_verdict(verdict_of(promoted=False, gate="keep", champion=None))
    assert [event for event, _ in told] == ["champion.changed", "gate.kept"]
    told.clear()
    for action in ("challenge", "approve", "promote", "reject", "rollback"):
        notifications.emit_decision(entry_of(action))
    assert told == [
        ("decision.approved", "approve models:/pets/2 by Ann: why"),
        ("decision.approved", "approve models:/pets/2 by Ann: why"),
        ("champion.changed", "promote models:/pets/2 by Ann: why"),
        ("decision.rejected", "reject models:/pets/2 by Ann: why"),
        ("champion.rolled-back", "rollback to models:/pets/2 by Ann: why"),
    ]


def test_a_reason_neither_calls_a_channel_nor_hides_a_link() -> None:
    text = '<!channel> <http://e|"look">  a & b'
    payload = render_user_template_sync(
        notifications.PAYLOAD, {"event": {"payload": {"text": text}}}
    )
    assert json.loads(payload) == {
        "text": '&lt;!channel&gt; &lt;http://e|"look"&gt;  a &amp; b',
    }


def test_the_rollback_in_prefects_ui_moves_the_champion_and_tells_of_it(
    told: list[tuple[str, str]],
    make_checkpoint: MakeCheckpoint,  # noqa: F811
) -> None:
    first, second = (register(make_checkpoint(seed), None, name="pets") for seed in (0, 1))
    crown(first)
    crown(second)
    with disable_run_logger():
        entry = rollback.fn("pets", "Bob", "<!channel> complaints")
    assert (entry.who, entry.reason) == ("Bob", "<!channel> complaints")
    assert champion("pets") == first
    text = "rollback to models:/pets/1 by Bob: <!channel> complaints"
    assert told == [("champion.rolled-back", text)]


def test_a_damaged_log_does_not_keep_the_guard_from_the_other_models(
    make_checkpoint: MakeCheckpoint,  # noqa: F811
) -> None:
    for place, name in enumerate(("aged", "birds", "cats")):
        versions = [
            register(make_checkpoint(seed), None, name=name) for seed in (2 * place, 2 * place + 1)
        ]
        crown(versions[0])
        connect().set_registered_model_alias(name, "champion", "2")
    connect().set_registered_model_tag("birds", f"{ENTRY_TAG}000001", "{}")
    with (
        disable_run_logger(),
        pytest.raises(RegistryError, match="birds: the audit log of 'birds'"),
    ):
        guard.fn("revert")
    standing = [champion(name) for name in ("aged", "birds", "cats")]
    assert [version and version.version for version in standing] == [1, 2, 1]

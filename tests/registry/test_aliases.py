"""How aliases move: by an entry each, against what was known, whole or not at all."""

import json
import sqlite3
import time
from contextlib import closing
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import CheckpointError, DecisionError, RegistryError
from aigc_ops.registry import aliases as registry
from aigc_ops.registry.aliases import Decision
from aigc_ops.registry.audit_log import DONE_TAG, ENTRY_TAG, audit
from aigc_ops.registry.client import connect
from aigc_ops.registry.resolution import STORED_FOLDER
from aigc_ops.registry.versions import champion, models
from tests.conftest import start_child
from tests.registry.conftest import Stocked, stored_models

ANN = Decision(who="Ann", reason="sharper digits", gate="promote", packet_digest="p" * 64)


def aliases() -> dict[int, tuple[str, ...]]:
    return {row.version: row.aliases for row in models()}


def test_a_promotion_moves_three_aliases_and_is_told_on_the_version(stocked: Stocked) -> None:
    first, second = stocked(2)
    registry.promote(first, ANN, champion=None)
    registry.challenge(second, ANN)
    assert aliases() == {1: ("champion",), 2: ("challenger",)}
    entry = registry.promote(second, ANN, champion=1)
    assert aliases() == {1: ("previous",), 2: ("champion",)}
    assert (entry.before, entry.after) == (
        {"champion": 1, "challenger": 2},
        {"champion": 2, "previous": 1},
    )
    entity = connect().get_model_version("digits", "2")
    assert entity.tags["aigc_ops.decision"] == "promote"
    assert entity.tags["aigc_ops.reviewer"] == "Ann"
    assert entity.tags["aigc_ops.reason"] == "sharper digits"
    assert entity.tags["aigc_ops.packet_digest"] == "p" * 64
    assert entity.tags["aigc_ops.audit_digest"] == entry.digest
    assert entity.description.count("## Promotion") == 1
    assert "Ann: sharper digits" in entity.description
    assert audit("digits").problems == ()


def test_a_version_that_is_held_back_is_no_challenger(stocked: Stocked) -> None:
    first, second = stocked(2)
    registry.promote(first, ANN, champion=None)
    registry.challenge(second, ANN)
    worse = ANN.model_copy(update={"gate": "keep", "reason": "blurred digits"})
    entry = registry.hold(second, worse)
    assert entry is not None
    assert entry.action == "hold"
    assert aliases() == {1: ("champion",), 2: ()}
    assert registry.hold(second, worse) is None  # the same decision is recorded once
    entity = connect().get_model_version("digits", "2")
    assert entity.tags["aigc_ops.decision"] == "hold"
    assert "blurred digits" in entity.description
    assert audit("digits").problems == ()


def test_promoting_the_champion_again_changes_nothing(stocked: Stocked) -> None:
    [version] = stocked(1)
    registry.promote(version, ANN, champion=None)
    before = dict(connect().get_registered_model("digits").tags)
    assert registry.promote(version, ANN, champion=None) is None
    assert dict(connect().get_registered_model("digits").tags) == before


def test_a_deleted_champion_leaves_room_for_another_and_is_told(stocked: Stocked) -> None:
    first, second = stocked(2)
    registry.promote(first, ANN, champion=None)
    connect().delete_model_version("digits", "1")
    assert audit("digits").problems == (
        "champion was moved outside aigc-ops: it names nothing, the log says version 1",
    )
    registry.promote(second, ANN, champion=None)
    assert aliases() == {2: ("champion",)}


def test_a_decision_that_knew_of_another_champion_is_refused(stocked: Stocked) -> None:
    first, second, third = stocked(3)
    registry.promote(first, ANN, champion=None)
    registry.promote(second, ANN, champion=1)
    with pytest.raises(
        DecisionError, match="evaluated against version 1, but version 2 is champion"
    ):
        registry.promote(third, ANN, champion=1)
    with pytest.raises(DecisionError, match="evaluated while there was no champion"):
        registry.promote(third, ANN, champion=None)
    assert champion("digits") == second


def test_a_rejected_version_cannot_be_approved_on_the_same_evidence(stocked: Stocked) -> None:
    first, version = stocked(2)
    registry.promote(first, ANN, champion=None)
    registry.challenge(version, ANN)
    registry.reject(version, ANN)
    assert aliases()[2] == ()
    for reviewers in (1, 2):
        with pytest.raises(DecisionError, match="rejected by Ann on this evidence"):
            registry.promote(version, ANN, champion=1, reviewers=reviewers)
    with pytest.raises(DecisionError, match="rejected by Ann"):
        registry.reject(version, ANN)
    newer = ANN.model_copy(update={"packet_digest": "q" * 64})
    assert registry.promote(version, newer, champion=1)


def test_a_version_rolled_back_from_is_not_approved_on_the_same_evidence(stocked: Stocked) -> None:
    first, second, third = stocked(3)
    registry.promote(first, ANN, champion=None)
    registry.promote(second, ANN, champion=1)
    registry.rollback("digits", None, ANN)
    with pytest.raises(DecisionError, match="rolled back from by Ann on"):
        registry.promote(second, ANN, champion=1)
    assert registry.promote(third, ANN, champion=1)  # this packet was seen of another version
    registry.rollback("digits", 2, ANN)
    assert registry.find_rollback(second) is None
    assert registry.find_rollback(third).before["champion"] == 3


def test_the_champion_is_not_rejected(stocked: Stocked) -> None:
    [version] = stocked(1)
    registry.promote(version, ANN, champion=None)
    with pytest.raises(DecisionError, match="aigc-ops rollback digits"):
        registry.reject(version, ANN)


def test_a_rollback_goes_to_the_champion_before_or_any_earlier_one(stocked: Stocked) -> None:
    versions = stocked(4)
    for known, version in zip((None, 1, 2), versions, strict=False):
        registry.promote(version, ANN, champion=known)
    registry.rollback("digits", None, ANN)
    assert champion("digits") == versions[1]
    registry.rollback("digits", None, ANN)
    assert champion("digits") == versions[2]
    registry.rollback("digits", 1, ANN)
    assert champion("digits") == versions[0]
    assert aliases() == {1: ("champion",), 2: (), 3: ("previous",), 4: ()}
    for never in (4, 1, 99):
        with pytest.raises(DecisionError, match="earlier champions are 2, 3"):
            registry.rollback("digits", never, ANN)
    assert [entry.action for entry in audit("digits").entries] == ["promote"] * 3 + ["rollback"] * 3


def test_unknown_deleted_and_archived_versions_are_refused(stocked: Stocked) -> None:
    [version] = stocked(1)
    with pytest.raises(RegistryError, match="models:/digits/9 does not exist"):
        registry.promote(version.model_copy(update={"version": 9}), ANN, champion=None)
    with pytest.warns(FutureWarning):  # MLflow's older way to retire a version
        connect().transition_model_version_stage("digits", "1", "Archived")
    with pytest.raises(RegistryError, match="is archived"):
        registry.promote(version, ANN, champion=None)
    connect().delete_model_version("digits", "1")
    with pytest.raises(RegistryError, match="does not exist"):
        registry.promote(version, ANN, champion=None)
    with pytest.raises(RegistryError, match="did you mean digits"):
        registry.rollback("digit", None, ANN)


def test_a_version_damaged_in_the_store_is_refused(stocked: Stocked, store: Path) -> None:
    first, version = stocked(2)
    registry.promote(first, ANN, champion=None)
    for folder in stored_models(store):
        weights = folder / STORED_FOLDER / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match="models:/digits/2 is damaged in MLflow's store"):
        registry.promote(version, ANN, champion=1)
    assert aliases() == {1: ("champion",), 2: ()}


@pytest.mark.parametrize(("who", "reason"), [("", "why"), ("Ann", " "), ("a" * 81, "why")])
def test_a_decision_names_who_and_why(who: str, reason: str) -> None:
    with pytest.raises(ValidationError):
        Decision(who=who, reason=reason)


def test_markup_and_control_characters_are_harmless_where_they_are_kept(stocked: Stocked) -> None:
    [version] = stocked(1)
    evil = Decision(who="A\x1b[31mnn", reason="![x](http://e) <script>\u202e *b*")
    registry.promote(version, evil, champion=None)
    entity = connect().get_model_version("digits", "1")
    assert entity.tags["aigc_ops.reviewer"] == "A\\x1b[31mnn"
    assert "\\u202e" in entity.tags["aigc_ops.reason"]
    told = entity.description.partition("## Promotion")[2]
    assert "\\!\\[x\\]\\(http://e\\) \\<script\\>" in told
    assert "\x1b" not in told


def test_an_alias_moved_by_hand_is_flagged_or_put_back(stocked: Stocked) -> None:
    first, second, third = stocked(3)
    registry.promote(first, ANN, champion=None)
    connect().set_registered_model_alias("digits", "champion", "2")
    (problem,) = audit("digits").problems
    assert (
        "champion was moved outside aigc-ops: it names version 2, the log says version 1" in problem
    )
    assert registry.reconcile("digits", "flag") == [problem]
    assert champion("digits") == second
    assert registry.reconcile("digits", "revert") == [problem]
    assert champion("digits") == first
    log = audit("digits")
    assert log.entries[-1].action == "revert"
    assert log.problems == ()  # all is as the log says, which tells what was moved
    assert (log.entries[-1].before, log.entries[-1].reason) == ({"champion": 2}, problem)
    assert registry.reconcile("digits", "revert") == []
    connect().set_registered_model_alias("digits", "champion", "2")
    registry.promote(third, ANN, champion=2)
    assert "from {'champion': 1} to {'champion': 2}" in audit("digits").problems[0]


def test_a_champion_set_by_hand_before_the_first_decision_is_flagged_or_taken_away(
    stocked: Stocked,
) -> None:
    version, better = stocked(2)
    assert audit("digits").problems == ()
    connect().set_registered_model_alias("digits", "champion", "1")
    (problem,) = audit("digits").problems
    assert "it names version 1, the log says nothing" in problem
    assert registry.reconcile("digits", "flag") == [problem]
    assert champion("digits") == version
    assert registry.reconcile("digits", "revert") == [problem]
    assert (champion("digits"), audit("digits").problems) == (None, ())
    connect().set_registered_model_alias("digits", "champion", "1")
    registry.promote(better, ANN, champion=1)
    assert "aliases were moved outside aigc-ops, from {} to" in audit("digits").problems[0]


@pytest.mark.parametrize("change", ["edit", "delete", "cut"])
def test_a_log_that_was_changed_is_found_and_nothing_moves_on_it(
    stocked: Stocked, change: str
) -> None:
    first, second, third = stocked(3)
    registry.promote(first, ANN, champion=None)
    registry.promote(second, ANN, champion=1)
    client, keys = connect(), [f"{ENTRY_TAG}{number:06d}" for number in (1, 2)]
    if change == "edit":
        text = client.get_registered_model("digits").tags[keys[0]]
        client.set_registered_model_tag("digits", keys[0], text.replace("Ann", "Bob"))
    else:
        client.delete_registered_model_tag("digits", keys[0 if change == "delete" else 1])
    assert audit("digits").problems
    with pytest.raises(RegistryError, match="audit log of 'digits' is damaged"):
        registry.promote(third, ANN, champion=2)
    assert champion("digits") == second


def promote(connection: Connection, version: ModelVersion) -> None:
    """Promote a version once told to, against the champion of before; then say how it went."""
    known = champion("digits")
    connection.send("ready")
    connection.recv()
    try:
        registry.promote(version, ANN, champion=known.version if known else None)
    except DecisionError as error:
        connection.send(str(error))
    else:
        connection.send("done")


def start(version: ModelVersion) -> tuple[BaseProcess, Connection]:
    """A process that waits to promote a version."""
    here, there = Pipe()
    child = start_child(promote, there, version)
    there.close()
    assert here.recv() == "ready"
    return child, here


def wait_for_entry(store: Path, number: int) -> None:
    """Until the entry stands in the log."""
    key, query = f"{ENTRY_TAG}{number:06d}", "SELECT 1 FROM registered_model_tags WHERE key = ?"
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        while not database.execute(query, (key,)).fetchone():
            time.sleep(0.001)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_promotions_leave_the_old_or_the_new_champion_and_are_completed(
    stocked: Stocked, store: Path, kills: int
) -> None:
    # Half are killed at any moment, half within the first moments after the entry was written.
    delays = np.random.default_rng(0).uniform(0, 0.08, size=kills)
    delays[::2] /= 8
    first, second = stocked(2)
    registry.promote(first, ANN, champion=None)
    current, other, num_cut_short = first, second, 0
    for place, delay in enumerate(delays):
        num = len(audit("digits").entries)
        child, connection = start(other)
        connection.send("go")
        if place % 2 == 0:
            wait_for_entry(store, num + 1)
        time.sleep(delay)
        child.kill()
        child.join()
        assert champion("digits") in (current, other)
        num_cut_short += any("was interrupted" in problem for problem in audit("digits").problems)
        registry.reconcile("digits", "flag")  # completes what was cut short
        log = audit("digits")
        assert log.problems == ()
        assert champion("digits").version == log.entries[-1].after["champion"]
        if champion("digits") == other:
            current, other = other, current
    assert num_cut_short >= max(1, kills // 4)


def test_an_entry_cut_short_before_any_alias_moved_is_told_and_completed(stocked: Stocked) -> None:
    first, second, third = stocked(3)
    registry.promote(first, ANN, champion=None)
    registry.promote(second, ANN, champion=1)
    client = connect()  # as a kill right after writing the entry leaves it
    client.set_registered_model_alias("digits", "champion", "1")
    client.delete_registered_model_alias("digits", "previous")
    client.set_registered_model_tag("digits", DONE_TAG, "1")
    assert "entry 2 (promote version 2) was interrupted" in audit("digits").problems[0]
    with pytest.raises(DecisionError, match="version 2 is champion now"):
        registry.promote(third, ANN, champion=1)
    assert champion("digits") == second
    assert audit("digits").problems == ()


def test_of_racing_processes_one_wins_and_the_others_are_told(stocked: Stocked) -> None:
    first, *others = stocked(4)
    registry.promote(first, ANN, champion=None)
    children = [start(version) for version in others]
    for _, connection in children:
        connection.send("go")
    said = [connection.recv() for _, connection in children]
    for child, _ in children:
        child.join()
    won = [index for index, word in enumerate(said) if word == "done"]
    assert len(won) == 1, said
    assert champion("digits").version == won[0] + 2
    assert sum("is champion now" in word for word in said) == 2
    log = audit("digits")
    assert (len(log.entries), log.problems) == (2, ())


def test_the_log_is_json_that_others_can_check(stocked: Stocked) -> None:
    import hashlib

    first, second = stocked(2)
    registry.promote(first, ANN, champion=None)
    registry.promote(second, ANN, champion=1)
    tags = connect().get_registered_model("digits").tags
    entries = [json.loads(tags[f"{ENTRY_TAG}{number:06d}"]) for number in (1, 2)]
    canonical = json.dumps(
        entries[0], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    assert entries[1]["previous"] == hashlib.sha256(canonical).hexdigest()

"""What the registry lists."""

from argparse import Namespace

import pytest

from aigc_ops.cli import model_commands
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.client import connect
from aigc_ops.registry.registration import register
from aigc_ops.registry.versions import SCORES_TAG, champion, models
from tests.registry.conftest import MakeCheckpoint, crown, scores_of


def test_versions_are_listed_by_name_and_newest_first(make_checkpoint: MakeCheckpoint) -> None:
    assert models() == []
    first = make_checkpoint(0)
    crown(register(first, scores_of(first, 9.5), name="b"))
    register(make_checkpoint(1), None, name="b")
    register(make_checkpoint(2), None, name="a")
    rows = models()
    assert [(row.name, row.version, row.aliases) for row in rows] == [
        ("a", 1, ()),
        ("b", 2, ()),
        ("b", 1, ("champion",)),
    ]
    assert (rows[2].family, rows[2].primary, rows[2].score) == ("gan", "fd", 9.5)
    assert rows[2].scores == scores_of(first, 9.5).values
    assert (rows[1].primary, rows[1].score, rows[1].scores) == (None, None, {})
    assert rows[0].created.endswith("+00:00")


def test_the_list_says_which_scores_do_not_compare_with_the_champions(
    make_checkpoint: MakeCheckpoint,
) -> None:
    for seed, terms in enumerate(({}, {"seed": 1}, {"n": 32, "reference": "other"})):
        checkpoint = make_checkpoint(seed)
        version = register(checkpoint, scores_of(checkpoint, 9.5, **terms), name="digits")
        if not terms:
            crown(version)
    _, (third, second, first) = model_commands.models_command(Namespace(), [])
    assert third.endswith("not comparable with the champion's: other n, reference")
    assert second.endswith("fd 9.5")
    assert first.endswith("fd 9.5")


def test_models_of_anothers_making_are_not_listed() -> None:
    client = connect()
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "/somewhere/pickled")
    assert models() == []


def test_there_is_no_champion_of_a_model_that_does_not_exist() -> None:
    assert champion("digits") is None
    with pytest.raises(RegistryError, match="cannot name a model"):
        champion("../up")


def test_scores_that_someone_broke_are_named(make_checkpoint: MakeCheckpoint) -> None:
    register(make_checkpoint(), None, name="digits")
    connect().set_model_version_tag("digits", "1", SCORES_TAG, "{}")
    with pytest.raises(RegistryError, match=r"the tag aigc_ops\.scores does not hold scores"):
        models()

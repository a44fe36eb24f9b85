"""A home that an earlier version of aigc-ops made is read, and gone on with, by this one."""

import functools
import importlib
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from prefect.results import ResultRecord
from prefect.serializers import JSONSerializer
from safetensors.torch import load_file

from aigc_ops.core.artifacts import Checkpoint, RunResult, Scores, ValidationReport, Verdict
from tests.flows.conftest import Console, Workplace
from tests.old_home.conftest import missing
from tests.old_home.facts import (
    CHAMPION,
    CONFIGS,
    HALF,
    LOOKING_BACK,
    OF_THE_HOME,
    SAMPLES,
    TRACED,
    essence,
    keys_of,
    metrics_of,
    names_in,
)
from tests.old_home.golden import check_golden, folder_of, pixels
from tests.old_home.names import names_of_folder, names_of_model, packets_of, results_of
from tests.old_home.place import HOME, PLACE

Look = Callable[[str], Any]


@pytest.fixture(scope="module")
def look(console: Console) -> Look:
    """What a command that only looks answers, asked once."""
    return functools.cache(lambda what: console.run(*LOOKING_BACK[what])[0])


def test_every_entry_of_the_audit_log_verifies_and_is_as_it_was(look: Look, facts: Any) -> None:
    recorded = facts["answers"]["audit"]
    actions = {entry["action"] for entry in recorded["stripes"]["entries"]}
    assert actions == {"promote", "challenge", "approve", "reject", "rollback", "revert"}
    assert essence("audit", look("audit")) == recorded
    assert not look("audit")["failed"]


def test_versions_and_their_aliases_are_as_they_were(look: Look, facts: Any) -> None:
    recorded = facts["answers"]["models"]
    aliases = {(row["name"], alias) for row in recorded for alias in row["aliases"]}
    assert aliases == {
        *(("stripes", alias) for alias in ("champion", "previous", "challenger")),
        ("sums", "challenger"),
    }
    assert essence("models", look("models")) == recorded


@pytest.mark.parametrize("what", TRACED)
def test_a_trace_holds_link_by_link(look: Look, facts: Any, what: str) -> None:
    answer, recorded = look(what), facts["answers"][what]
    assert answer["broken"] == recorded["broken"] == []
    for link, before in zip(answer["links"], recorded["links"], strict=True):
        assert (link["name"], link["state"]) == (before["name"], before["state"])
        known = {key: value for key, value in before["details"].items() if value is not None}
        assert link["details"].items() >= known.items()


def test_the_review_shows_the_packet_that_it_showed(look: Look, facts: Any) -> None:
    assert essence("review", look("review")) == facts["answers"]["review"]
    assert Path(look("review")["page"]).is_file()


def test_the_doctor_finds_nothing_that_it_did_not_find(look: Look, facts: Any) -> None:
    now, before = (
        Counter(map(tuple, found))
        for found in (essence("doctor", look("doctor")), facts["answers"]["doctor"])
    )
    assert {check for check, _ in now} == {*OF_THE_HOME}
    worse = {finding for finding in now - before if finding[1] != "ok"}
    assert worse == set()
    assert {finding for finding in before if finding[1] != "ok"} == {("runs", "warn")}


def test_the_commands_answer_with_every_key_that_they_had(look: Look, facts: Any) -> None:
    keys = keys_of({what: look(what) for what in LOOKING_BACK})
    assert missing({word: facts["keys"][word] for word in keys}, keys) == {}


def test_results_that_prefect_keeps_are_read_under_their_former_names(
    old: Workplace, facts: Any
) -> None:
    assert results_of(old.home) == {*facts["results"]}
    kept = sorted((old.home / "prefect" / "storage").iterdir())
    # A flow's result is the bare value: its metadata is in Prefect's database.
    read = {
        type(ResultRecord.deserialize(path.read_bytes(), JSONSerializer()).result) for path in kept
    }
    assert read == {Checkpoint, RunResult, Scores, ValidationReport, Verdict, type(None)}


def test_a_sample_is_drawn_again_as_it_was(console: Console, tmp_path: Path) -> None:
    console.run("sample", CHAMPION, "--num", 2, "--seed", 7, "--out", tmp_path / "again")
    for name in ("00000.png", "00001.png"):
        (again, note), (before, told) = (
            picture(p / name) for p in (tmp_path / "again", SAMPLES / "stripes")
        )
        assert np.abs(again - before).max() <= 1
        assert before.max() - before.min() > 50, "a picture of nothing would tell nothing"
        assert note == told


def test_the_module_that_mlflows_file_names_loads_the_champion(old: Workplace, facts: Any) -> None:
    """As `mlflow.pyfunc.load_model` does, whose import takes seconds: test_old_servers.py."""
    folder = folder_of(facts["champion"])
    flavor = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    model = importlib.import_module(flavor["loader_module"])._load_pyfunc(folder / flavor["data"])
    check_golden(folder, lambda rows: model.predict(pd.DataFrame(rows))["image"])


@pytest.mark.parametrize("name", HALF)
def test_a_run_that_was_killed_goes_on_from_its_checkpoint(
    console: Console, facts: Any, name: str
) -> None:
    recorded = facts["half"][name]
    began = time.time() * 1000
    answer, _ = console.run("train", CONFIGS / f"{name}.yaml")
    assert answer["uri"] == f"{recorded['folder']}/step-00000060"

    times = metrics_of(Path(recorded["folder"]).name)
    kept = {what: times[what] for what in times if int(what.split()[1]) <= recorded["step"]}
    assert {int(what.split()[1]) for what in kept} == {5, 10}
    assert all(time < began for each in kept.values() for time in each), "those steps were retaken"
    assert {int(what.split()[1]) for what in times} == {*range(5, 61, 5)}
    assert all(len(each) == 1 for each in times.values())


@pytest.mark.parametrize("name", HALF)
def test_its_weights_and_records_bear_the_names_that_they_bore(
    console: Console, facts: Any, name: str
) -> None:
    answer, _ = console.run("train", CONFIGS / f"{name}.yaml")
    assert missing(facts["checkpoint"][name], names_of_folder(Path(answer["uri"]))) == {}


@pytest.mark.parametrize("name", HALF)
def test_it_comes_to_what_it_would_have_come_to_unstopped(
    console: Console, facts: Any, name: str
) -> None:
    answer, _ = console.run("train", CONFIGS / f"{name}.yaml")
    ended, unstopped = Path(answer["uri"]), PLACE / "finished" / name
    weights, expected = (load_file(p / "model.safetensors") for p in (ended, unstopped))
    assert weights.keys() == expected.keys()
    # Another processor, or another torch, may round otherwise.
    exact = trainer_of(ended) == trainer_of(unstopped)
    for key, tensor in expected.items():
        tolerance = 0 if exact else 0.02
        torch.testing.assert_close(weights[key], tensor, rtol=tolerance, atol=tolerance)


def test_a_run_that_was_finished_is_not_trained_again(console: Console, facts: Any) -> None:
    answer, _ = console.run("train", CONFIGS / "stripes.yaml")
    assert answer == facts["finished"]


def test_what_is_written_today_bears_the_names_that_it_bore(console: Console, facts: Any) -> None:
    trained, _ = console.run("train", CONFIGS / "stripes.yaml", "--name", "fresh")
    console.run("register", trained["uri"])
    console.run("promote", trained["uri"])
    console.run("approve", "fresh", 1, "--reviewer", "Ann", "--reason", "as before")
    assert missing(facts["checkpoint"]["stripes"], names_of_folder(Path(trained["uri"]))) == {}
    lost = missing(facts["names"], names_of_model(HOME, "fresh"))
    assert lost == {"version": ["aigc_ops.flow_run"]}, "but for a flow's, since none decided"
    assert missing({"": facts["packet"]["first"]}, {"": names_in(packets_of(HOME, "fresh"))}) == {}


def picture(path: Path) -> tuple[Any, Any]:
    """Its pixels, and what it tells of its origin."""
    with Image.open(path) as opened:
        return pixels(path.read_bytes()), json.loads(opened.info["aigc_ops"])


def trainer_of(folder: Path) -> Any:
    """The processor and the libraries that a checkpoint was trained with."""
    provenance, training = (
        json.loads((folder / name).read_text()) for name in ("provenance.json", "training.json")
    )
    return provenance["machine"]["processor"], training["versions"]

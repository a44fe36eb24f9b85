"""The old home's servers: Prefect with its suspended reviews, the served champion, the Bento."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pandas as pd
import pytest

from tests.conftest import ROOT, answers, eventually, free_port, listening, process
from tests.flows.conftest import Console, Workplace
from tests.old_home.conftest import missing
from tests.old_home.facts import CONFIGS, again, keys_of, names_in
from tests.old_home.golden import check_golden, folder_of
from tests.old_home.names import entrypoints_of, packets_of, paths, records_of, results_of
from tests.old_home.place import HOME
from tests.old_home.prefect import Api

pytestmark = pytest.mark.slow
VERDICT = "aigc_ops.core.artifacts.Verdict"
"""What a review results in, as Prefect's kept results name it."""


@pytest.fixture(scope="module")
def server(old: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on the old database, and the flows of the code under test served to it."""
    logs = tmp_path_factory.mktemp("servers")
    port = free_port()
    variables = {
        "AIGC_OPS_HOME": str(old.home),
        "PREFECT_HOME": str(old.home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "OMP_NUM_THREADS": "1",
    }
    start = ("-m", "prefect", "server", "start", "--port", str(port))
    with process(logs / "prefect.log", *start, **variables):
        eventually(lambda: answers(f"http://127.0.0.1:{port}/api/health"))
        with process(logs / "flows.log", "-m", "flows", **variables):
            eventually(lambda: "being served" in (logs / "flows.log").read_text())
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def api(server: str) -> Api:
    return Api(server)


@pytest.fixture(scope="module")
def reporting(
    old: Workplace, server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """The command line in the old home, whose runs report to the server."""
    folder = tmp_path_factory.mktemp("reporting")
    console = Console(replace(old, server=f"{server}/api"), folder)
    yield console
    console.close()


def test_the_deployments_keep_their_entrypoints(server: str, facts: Any) -> None:
    assert entrypoints_of(HOME).items() >= facts["entrypoints"].items()


def test_what_the_old_database_names_as_entrypoints_is_there(facts: Any) -> None:
    from prefect.flows import load_flow_from_entrypoint

    for name, entrypoint in facts["entrypoints"].items():
        assert load_flow_from_entrypoint(entrypoint).name == name.partition("/")[0]


def test_a_review_goes_on_after_what_it_did_and_decides_once(
    reporting: Console, api: Api, facts: Any
) -> None:
    began = time.time()
    run, before = api.suspended("review-stripes-4", key="decision-1"), packets_of(HOME, "stripes")
    packet = facts["answers"]["review"]["packet_digest"]
    assert api.packet_shown(run) == packet
    form = {"decision": "approve", "reviewer": "Cid", "reason": "sharper", "packet": packet}
    assert api.resume(run, form)["status"] == "ACCEPT"
    api.ended(run, "COMPLETED")
    entries = log_of(reporting, "stripes")
    *earlier, entry = entries
    assert earlier == facts["answers"]["audit"]["stripes"]["entries"]
    assert entry["flow_run"] == run
    assert (entry["action"], entry["version"], entry["who"]) == ("promote", 4, "Cid")
    assert entry["packet_digest"] == packet
    assert packets_of(HOME, "stripes") == before, "it was weighed once more"
    assert results_of(HOME, since=began) == {VERDICT}
    [weighed] = [task for task in api.task_runs(run) if task["name"].startswith("weigh-")]
    assert weighed["state_name"] == "Completed"

    assert api.resume(run, form)["status"] != "ACCEPT"
    rerun(api, run)
    assert log_of(reporting, "stripes") == entries


def test_the_second_of_two_reviewers_decides_and_the_first_is_not_asked_again(
    reporting: Console, api: Api
) -> None:
    run = api.suspended("review-sums-1", key="decision-1")
    form = {"decision": "approve", "reviewer": "Bob", "reason": "so it does"}
    api.resume(run, {**form, "packet": api.packet_shown(run)})
    api.ended(run, "COMPLETED")
    entries = log_of(reporting, "sums")
    decided = [(entry["action"], entry["who"]) for entry in entries if entry["flow_run"] == run]
    assert decided == [("approve", "Ann"), ("promote", "Bob")]
    rerun(api, run)
    assert log_of(reporting, "sums") == entries


def log_of(console: Console, model: str) -> list[Any]:
    """The entries of a model's log, which verifies."""
    answer, _ = console.run("audit", model)
    [log] = answer["logs"]
    return list(log["entries"])


def rerun(api: Api, run: str) -> None:
    """Have a flow run that has ended run again from its top, and wait for its end."""
    before = api.flow_run(run)["run_count"]
    state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
    api.call(f"flow_runs/{run}/set_state", {"state": state, "force": True})
    eventually(lambda: api.flow_run(run)["run_count"] > before, seconds=300)
    api.ended(run, "COMPLETED")


def test_a_whole_run_that_was_killed_ends_and_leaves_what_runs_left(
    reporting: Console, facts: Any
) -> None:
    half, _ = reporting.run("run", CONFIGS / "half-gan.yaml")
    assert half["checkpoint"]["uri"] == f"{facts['half']['half-gan']['folder']}/step-00000060"
    off = ("--packaging.enabled", "false")
    new, _ = reporting.run("run", CONFIGS / "stripes.yaml", "--seed", 9, *off)
    assert new["version"]["version"] == 5
    records = records_of(HOME, "stripes")
    kept = [each for each in records if each["result"]["version"] == new["version"]]
    made = [each for each in packets_of(HOME, "stripes") if each["candidate"]["version"] == 5]
    found = {
        "keys": paths(new),
        "record": names_in(kept),
        "packet": names_in(made),
    }
    recorded = {
        "keys": [key for key in facts["keys"]["run"] if not key.startswith("bento.")],
        "record": [key for key in facts["record"] if not key.startswith("result.bento.")],
        "packet": facts["packet"]["compared"],
    }
    assert missing(recorded, found) == {}


def test_stages_that_are_asked_again_answer_with_every_key_that_they_had(
    console: Console, facts: Any
) -> None:
    keys = keys_of({what: console.run(*words)[0] for what, words in again().items()})
    assert missing({word: facts["keys"][word] for word in keys}, keys) == {}


def test_the_champion_is_served_as_it_was(old: Workplace, facts: Any, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "aigc_ops", "serve", "models:/stripes/1")
    with listening(command, cwd=ROOT, log=tmp_path / "log", **old.environment) as url:
        check_golden(folder_of(facts["champion"]), lambda rows: served(url, rows, facts))


def test_a_bento_boots_with_the_code_that_it_holds(
    old: Workplace, facts: Any, tmp_path: Path
) -> None:
    [bento] = old.home.glob(f"bentoml/bentos/{facts['bento'].replace(':', '/')}")
    variables = {**old.environment, "BENTOML_HOME": str(old.home / "bentoml")}
    variables.pop("PYTHONPATH", None)
    command = (sys.executable, "-m", "bentoml", "serve", str(bento))
    with listening(command, cwd=tmp_path, log=tmp_path / "log", **variables) as url:
        check_golden(folder_of(facts["champion"]), lambda rows: served(url, rows, facts))


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
def test_mlflow_loads_the_champion_by_itself(old: Workplace, facts: Any) -> None:
    import mlflow.pyfunc

    folder = folder_of(facts["champion"])
    model = mlflow.pyfunc.load_model(str(folder))
    check_golden(folder, lambda rows: model.predict(pd.DataFrame(rows))["image"])


def served(url: str, rows: list[dict[str, int]], facts: Any) -> Iterator[bytes]:
    """What the service answers to each seed and label."""
    for row in rows:
        call = Request(f"{url}/generate", json.dumps(row).encode())
        call.add_header("content-type", "application/json")
        with urlopen(call, timeout=60) as answer:
            assert answer.headers["X-AIGC-Model"] == "stripes"
            assert answer.headers["X-AIGC-Version"] == "1"
            assert answer.headers["X-AIGC-Manifest"] == facts["champion"]
            yield answer.read()

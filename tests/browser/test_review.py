"""A review in the Prefect UI: the run waits, a form is filled in, the champion has moved."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import (
    SECONDS,
    Servers,
    call,
    deployments,
    mlflow_at,
    prefect_at,
    serving,
)
from tests.conftest import ROOT, eventually
from tests.flows.conftest import write_images

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("review")
    with serving(folder) as servers:
        yield servers


@pytest.fixture(scope="module")
def messages(servers: Servers) -> Iterator[list[str]]:
    """What a web hook of one's own receives."""
    received: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            received.append(json.loads(self.rfile.read(length))["text"])
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        for _ in range(2):  # the second puts the address in the place of the first
            subprocess.run(
                [sys.executable, "-m", "flows", "--notify", url],
                cwd=ROOT,
                env={**os.environ, **servers.variables},
                check=True,
            )
        yield received
        server.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def started(servers: Servers, deployment: str, parameters: dict[str, Any]) -> str:
    """The flow run of a deployment with these parameters."""
    found = deployments(servers)[deployment]
    run = call(
        f"{servers.prefect}/api/deployments/{found['id']}/create_flow_run",
        {"parameters": parameters},
    )
    return str(run["id"])


def run_of(servers: Servers, run: str, *states: str, seconds: float = 300) -> Any:
    """The flow run once it is in one of these states."""

    def found() -> Any:
        state = call(f"{servers.prefect}/api/flow_runs/{run}")
        ended = state["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert not ended or state["state_type"] in states, state["state"]
        return state if state["state_type"] in states else None

    return eventually(found, seconds=seconds)


def config_of(images: Path, seed: int, reviewers: int = 1) -> dict[str, Any]:
    """A run of the chain whose version a person must decide on."""
    return {
        "name": "pets",
        "seed": seed,
        "data": {"path": str(images)},
        "model": {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4},
        "training": {"steps": 2, "batch_size": 8},
        "evaluation": {"num_samples": 8, "num_reference": 8},
        "promotion": {"approval": "review", "max_samples": 8, "reviewers": reviewers},
        "packaging": {"enabled": False},
    }


def weighed(images: Path, seed: int, reviewers: int = 1) -> int:
    """Make one more version and its packet, in this process."""
    from aigc_ops import chain
    from aigc_ops.config import parse_config

    config = parse_config(config_of(images, seed, reviewers), source="the test")
    dataset = chain.open_data(config)
    checkpoint = chain.train(config, dataset)
    scores = chain.evaluate(config, dataset, checkpoint)
    version = chain.register(config, dataset, checkpoint, scores)
    chain.promote(config, dataset, version)
    return version.version


def packet_digest_of(version: int) -> str:
    from aigc_ops import chain
    from aigc_ops.registry.evidence import read_packet

    return read_packet(chain.version_of(f"models:/pets/{version}")).packet_digest


def review_of(servers: Servers, version: int) -> str:
    """The suspended review of a version: the one that its chain began, or one begun now."""
    runs = call(f"{servers.prefect}/api/flow_runs/filter", {})
    mine = [run["id"] for run in runs if run["name"] == f"review-pets-{version}"]
    run = mine[0] if mine else started(servers, "review", {"model": "pets", "version": version})
    run_of(servers, run, "PAUSED")
    return str(run)


def shown_of(servers: Servers, run: str) -> set[str]:
    """Keys of the artifacts on a run's page."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    found = call(f"{servers.prefect}/api/artifacts/filter", wanted)
    return {each["key"] for each in found if each["key"]}


def answered(servers: Servers, run: str, **fields: str) -> str:
    """What the API says to an approval with these fields."""
    url = f"{servers.prefect}/api/flow_runs/{run}/resume"
    return str(call(url, {"run_input": {"decision": "approve", **fields}})["status"])


def champion(servers: Servers) -> int | None:
    url = f"{servers.mlflow}/api/2.0/mlflow/registered-models/alias?name=pets&alias=champion"
    try:
        return int(call(url)["model_version"]["version"])
    except HTTPError:
        return None


def answer(
    page: Page, servers: Servers, run: str, decision: str, reviewer: str, reason: str
) -> None:
    """Fill the form of a suspended run in, as a person does, and send it.

    Once more when the page, on a busy machine, rendered the form anew while it was filled in.
    """

    def sent() -> bool:
        form = opened(servers, page, run)
        form.locator("button.p-select-button__control").first.focus()
        page.keyboard.press("ArrowDown")
        page.locator(".p-select-option").get_by_text(decision, exact=True).click()
        for title, text in (("Reviewer", reviewer), ("Reason", reason)):
            label = form.get_by_text(title, exact=True)
            label.locator("xpath=following::textarea[1]").fill(text)
        form.get_by_role("button", name="Submit").click()
        with suppress(AssertionError):
            expect(form).to_be_hidden(timeout=30 * SECONDS)
        return not form.is_visible()

    eventually(sent)


def opened(servers: Servers, page: Page, run: str) -> Locator:
    """The form of a suspended run, loaded whole."""
    page.goto(f"{servers.prefect}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").click(timeout=60 * SECONDS)
    form = page.get_by_role("dialog")
    expect(form.get_by_text("The gate says").first).to_be_visible(timeout=60 * SECONDS)
    return form


def asked_again(servers: Servers, page: Page, run: str, text: str) -> None:
    """The form shows this text once the run waits again."""

    def shows() -> bool:
        state = call(f"{servers.prefect}/api/flow_runs/{run}")
        assert state["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"), state["state"]
        if state["state_type"] != "PAUSED":
            return False
        return opened(servers, page, run).get_by_text(text).count() > 0

    eventually(shows)


def test_an_approval_in_the_form_of_the_chains_review_moves_the_champion(
    servers: Servers, messages: list[str], images: Path, page: Page
):
    chain_run = started(servers, "gan", {"config": config_of(images, 0)})
    run_of(servers, chain_run, "COMPLETED")
    assert champion(servers) is None
    run = review_of(servers, 1)
    assert shown_of(servers, run) == {"review-packet", "review-samples"}
    assert answered(servers, run, reviewer="Eve", reason="unseen") == "REJECT"
    answer(page, servers, run, "approve", "Ann", " ")
    asked_again(servers, page, run, "the name or the reason was empty")
    answer(page, servers, run, "approve", "Ann", "sharper pets")
    run_of(servers, run, "COMPLETED")
    assert champion(servers) == 1
    waits, *decided = eventually(lambda: messages if len(messages) == 3 else None)
    assert waits.startswith("models:/pets/1 waits: aigc-ops review pets 1.")
    assert sorted(decided) == [
        f"{did} models:/pets/1 by Ann: sharper pets" for did in ("approve", "promote")
    ]


@pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning")
def test_a_stale_review_is_weighed_anew_and_a_rejection_leaves_the_champion(
    servers: Servers,
    messages: list[str],
    images: Path,
    page: Page,
    monkeypatch: pytest.MonkeyPatch,
):
    for variable, value in servers.variables.items():
        monkeypatch.setenv(variable, value)
    second, third = weighed(images, 1), weighed(images, 2)
    run = review_of(servers, third)
    decide = (sys.executable, "-m", "aigc_ops", "approve", "pets", str(second))
    by_bob = ("--reviewer", "Bob", "--reason", "by the command line")
    subprocess.run([*decide, *by_bob], cwd=ROOT, check=True)
    told = f"promote models:/pets/{second} by Bob: by the command line"
    eventually(lambda: told in messages)
    answer(page, servers, run, "approve", "Ann", "sharper still")
    asked_again(servers, page, run, "It was weighed anew")
    answer(page, servers, run, "reject", "Ann", "not against this one")
    run_of(servers, run, "COMPLETED")
    assert champion(servers) == second
    back = started(
        servers, "rollback", {"model": "pets", "reviewer": "Bob", "reason": "<!channel> complaints"}
    )
    run_of(servers, back, "COMPLETED")
    assert champion(servers) == 1
    rejected = f"reject models:/pets/{third} by Ann: not against this one"
    rolled_back = "rollback to models:/pets/1 by Bob: &lt;!channel&gt; complaints"
    eventually(lambda: {rejected, rolled_back} <= set(messages))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning")
def test_where_two_must_agree_the_form_asks_for_another_name(
    servers: Servers, images: Path, page: Page, monkeypatch: pytest.MonkeyPatch
):
    for variable, value in servers.variables.items():
        monkeypatch.setenv(variable, value)
    before, version = champion(servers), weighed(images, 3, reviewers=2)
    run = review_of(servers, version)
    answer(page, servers, run, "approve", "Ann", "good pets")
    asked_again(servers, page, run, "another reviewer must approve too")
    answer(page, servers, run, "approve", "ann", "very good pets")
    asked_again(servers, page, run, "ann has approved")
    assert champion(servers) == before
    answer(page, servers, run, "approve", "Bob", "good indeed")
    run_of(servers, run, "COMPLETED")
    assert champion(servers) == version


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning")
def test_a_suspended_review_outlives_restarts_of_server_and_serving_process(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    servers = Servers(tmp_path)
    servers.home.mkdir()
    for variable, value in servers.variables.items():
        monkeypatch.setenv(variable, value)
    with mlflow_at(servers, tmp_path):
        with prefect_at(servers, tmp_path):
            version = weighed(images, 0)
            run = review_of(servers, version)
        with prefect_at(servers, tmp_path):
            run_of(servers, run, "PAUSED")
            digest = packet_digest_of(version)
            said = {"reviewer": "Ann", "reason": "sharper pets", "packet": digest}
            assert answered(servers, run, **said) == "ACCEPT"
            run_of(servers, run, "COMPLETED")
            assert champion(servers) == version

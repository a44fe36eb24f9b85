"""A review as a person meets it: a suspended flow run, its form, and what it did."""

from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import SECONDS, Servers, call, deployments
from tests.conftest import eventually

SELECT = "button.p-select-button__control"


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


def has_ended(run: str) -> bool:
    """Whether no process of this test's servers works on a flow run any more."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return False
    return True


def config_of(images: Path, seed: int, reviewers: int = 1) -> dict[str, Any]:
    """A run of the chain whose version a person must decide on."""
    return {
        "name": "pets",
        "seed": seed,
        "data": {"path": str(images)},
        "model": {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4},
        "training": {"steps": 2, "batch_size": 8},
        "evaluation": {"image": {"num_samples": 8}, "num_reference": 8},
        "promotion": {"approval": "review", "max_samples": 8, "reviewers": reviewers},
        "packaging": {"enabled": False},
    }


def weighed(images: Path, seed: int, reviewers: int = 1) -> int:
    """Make one more version and its packet, in this process."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.run_config import parse_config

    config = parse_config(config_of(images, seed, reviewers), source="the test")
    dataset = chain.open_data(config)
    checkpoint = chain.train_stage(config, dataset)
    scores = chain.evaluate_stage(config, dataset, checkpoint)
    version = chain.register_stage(config, dataset, checkpoint, scores)
    chain.promote_stage(config, dataset, version)
    return version.version


def approve(version: int) -> None:
    """Make a version champion, in this process."""
    from aigc_ops.pipeline import chain
    from aigc_ops.promotion import review

    review.approve(chain.version_of(f"models:/pets/{version}"), who="Bob", reason="the first")


def packet_digest_of(version: int) -> str:
    from aigc_ops.pipeline import chain
    from aigc_ops.registry.evidence import read_packet

    return read_packet(chain.version_of(f"models:/pets/{version}")).packet_digest


def begun_review(servers: Servers, model: str, version: int) -> str:
    """The one review of a version that its chain, or a person, has begun, once it waits."""
    runs = call(f"{servers.prefect}/api/flow_runs/filter", {})
    asked = {"model": model, "version": version}
    [run] = [run["id"] for run in runs if run["parameters"] == asked]
    run_of(servers, run, "PAUSED")
    return str(run)


def review_of(servers: Servers, version: int) -> str:
    """A review of a version of this process's own, begun now, once it waits."""
    run = started(servers, "review", {"model": "pets", "version": version})
    run_of(servers, run, "PAUSED")
    return run


def shown_of(servers: Servers, run: str) -> set[str]:
    """Keys of the artifacts on a run's page."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    found = call(f"{servers.prefect}/api/artifacts/filter", wanted)
    return {each["key"] for each in found if each["key"]}


def answered(servers: Servers, run: str, **fields: str) -> str:
    """What the API says to an approval with these fields."""
    url = f"{servers.prefect}/api/flow_runs/{run}/resume"
    return str(call(url, {"run_input": {"decision": "approve", **fields}})["status"])


def champion(servers: Servers, model: str = "pets") -> int | None:
    url = f"{servers.mlflow}/api/2.0/mlflow/registered-models/alias?name={model}&alias=champion"
    try:
        return int(call(url)["model_version"]["version"])
    except HTTPError:
        return None


def answer(
    page: Page, servers: Servers, run: str, decision: str, reviewer: str, reason: str
) -> None:
    """Fill the form of a suspended run in, as a person does, and send it.

    Once more when the page, on a busy machine, rendered the form anew while it was filled in,
    or the server was too busy to take it.
    """

    def sent() -> bool:
        form = opened(servers, page, run)
        choose(page, form.locator(SELECT).first, decision)
        texts = {"Reviewer": reviewer, "Reason": reason}
        boxes = {
            title: form.get_by_text(title, exact=True).locator("xpath=following::textarea[1]")
            for title in texts
        }
        for title, text in texts.items():
            boxes[title].fill(text)
        if {title: box.input_value() for title, box in boxes.items()} != texts:
            return False
        form.get_by_role("button", name="Submit").click()
        refused = page.get_by_text("Failed to resume flow run").first
        eventually(lambda: not form.is_visible() or refused.is_visible(), seconds=30)
        return not form.is_visible()

    eventually(sent)
    page.goto("about:blank")  # Prefect's own moves all the while, for half a core


def choose(page: Page, select: Locator, option: str) -> None:
    """Open a select by its key and click on one of its options."""
    select.focus()
    page.keyboard.press("ArrowDown")
    page.locator(".p-select-option").get_by_text(option, exact=True).click()


def opened(servers: Servers, page: Page, run: str) -> Locator:
    """The form of a suspended run, loaded whole."""
    page.goto(f"{servers.prefect}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").click(timeout=60 * SECONDS)
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Gate outcome").first).to_be_visible(timeout=60 * SECONDS)
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

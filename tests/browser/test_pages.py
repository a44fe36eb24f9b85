"""Runs and reviews in the forms and pages of Prefect and MLflow, on one pair of servers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    SECONDS,
    Servers,
    call,
    deployments,
    mlflow_at,
    prefect_at,
    serving,
    web_hook,
)
from tests.browser.reviewing import (
    SELECT,
    answer,
    answered,
    approve,
    asked_again,
    begun_review,
    champion,
    choose,
    has_ended,
    packet_digest_of,
    review_of,
    run_of,
    shown_of,
    started,
    weighed,
)
from tests.conftest import ROOT, eventually
from tests.flows.conftest import write_images

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAME = "from-the-form"


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, list[str]]]:
    with web_hook() as hook:
        yield hook


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, hook: tuple[str, list[str]]
) -> Iterator[Servers]:
    url, _ = hook
    before = f"{url}-before"  # the second takes its place
    with serving(tmp_path_factory.mktemp("servers"), before, url) as servers:
        yield servers


@pytest.fixture(scope="module")
def messages(hook: tuple[str, list[str]]) -> list[str]:
    """What a web hook of one's own receives."""
    return hook[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def fill(page: Page, title: str, value: str, *, nth: int = 0) -> None:
    """Type into the form's field with this title, the nth of that title."""
    label = page.get_by_text(title, exact=True).nth(nth)
    field = label.locator("xpath=following::*[self::input or self::textarea][1]")
    field.fill(value)
    field.press("Tab")


@pytest.fixture(scope="module")
def run(servers: Servers, page: Page) -> Any:
    """A flow run that a person started from the form, when it has ended."""
    deployment = deployments(servers)["gan"]
    page.goto(f"{servers.prefect}/deployments/deployment/{deployment['id']}/run")
    expect(page.get_by_text("Length of the noise vector.")).to_be_visible(timeout=60 * SECONDS)
    fill(page, "Name", NAME)
    fill(page, "Generator Width (Optional)", "8")
    fill(page, "Critic Width (Optional)", "8")
    fill(page, "Steps (Optional)", "2")
    fill(page, "Num Samples (Optional)", "16")
    fill(page, "Num Reference (Optional)", "16")
    approval = page.get_by_text("Approval (Optional)", exact=True)
    choose(page, approval.locator("xpath=following::*").locator(SELECT).first, "review")
    page.get_by_role("button", name="Submit").click()
    [run] = eventually(lambda: call(f"{servers.prefect}/api/flow_runs/filter", {}))
    page.goto("about:blank")  # Prefect's own moves all the while, for half a core
    return run_of(servers, run["id"], "COMPLETED")


@pytest.fixture(scope="module")
def review(servers: Servers, run: Any) -> str:
    """The review that this run began, which waits."""
    return begun_review(servers, NAME, 1)


@pytest.fixture(scope="module")
def approved(servers: Servers, review: str, page: Page) -> str:
    """That review, which Ann has approved in its form."""
    answer(page, servers, review, "approve", "Ann", "sharper digits")
    return review


def artifacts(servers: Servers) -> dict[str, Any]:
    """Every artifact by its key."""
    found = call(f"{servers.prefect}/api/artifacts/filter", {})
    return {artifact["key"]: artifact for artifact in found}


def test_every_family_has_a_deployment_with_a_paused_schedule(servers: Servers):
    found = deployments(servers)
    assert sorted(found) == ["gan", "gpt", "guard", "review", "rollback", "vae"]
    for family in ("gan", "gpt", "vae"):
        [schedule] = found[family]["schedules"]
        assert not schedule["active"]
        assert schedule["schedule"]["cron"] == "0 3 * * *"


def test_a_run_from_the_form_completes_with_what_was_typed(servers: Servers, run: Any):
    assert run["state_type"] == "COMPLETED", run["state"]
    config = run["parameters"]["config"]
    assert config["training"]["steps"] == 2
    assert config["model"]["generator_width"] == 8
    assert config["promotion"]["approval"] == "review"


def test_the_runs_name_tells_family_and_data_version(servers: Servers, run: Any):
    assert run["name"].startswith("from-the-form-gan-data-")


def test_the_runs_page_shows_every_stage(servers: Servers, run: Any, page: Page):
    page.goto(f"{servers.prefect}/runs/flow-run/{run['id']}")
    for stage in ("validate", "train", "evaluate", "register", "promote"):
        name = f"{stage}-from-the-form"
        expect(page.get_by_text(name).first).to_be_visible(timeout=60 * SECONDS)


def test_the_artifacts_hold_grid_scores_card_and_links(servers: Servers, run: Any, page: Page):
    keys = artifacts(servers)
    wanted = {"samples", "scores", "model-card", "verdict", "review-packet"}
    assert {f"from-the-form-{each}" for each in wanted} <= set(keys)
    assert servers.mlflow in keys["from-the-form-mlflow-model-version"]["data"]
    page.goto(f"{servers.prefect}/artifacts/artifact/{keys['from-the-form-samples']['id']}")
    picture = page.locator("img[src^='data:image/png']").first
    expect(picture).to_be_visible(timeout=60 * SECONDS)
    assert picture.evaluate("image => image.naturalWidth") > 100
    page.goto("about:blank")


def test_the_review_that_the_run_began_shows_its_evidence_and_takes_no_unseen_answer(
    servers: Servers, review: str
):
    assert champion(servers, NAME) is None
    assert shown_of(servers, review) == {"review-packet", "review-samples"}
    assert answered(servers, review, reviewer="Eve", reason="unseen") == "REJECT"


def test_an_approval_in_the_form_moves_the_champion(
    servers: Servers, messages: list[str], approved: str
):
    eventually(lambda: champion(servers, NAME) == 1)
    waits, *decided = eventually(lambda: messages if len(messages) == 3 else None)
    assert waits.startswith("models:/from-the-form/1 waits: aigc-ops review from-the-form 1.")
    assert sorted(decided) == [
        f"{did} models:/from-the-form/1 by Ann: sharper digits" for did in ("approve", "promote")
    ]


def test_mlflow_shows_the_version_with_its_card_and_the_runs_curves(
    servers: Servers, approved: str, page: Page
):
    eventually(lambda: champion(servers, NAME) == 1)
    page.goto(f"{servers.mlflow}/#/models/from-the-form/versions/1")
    expect(page.get_by_text("champion").first).to_be_visible(timeout=60 * SECONDS)
    expect(page.get_by_text("fd_efficientnet_lite0").first).to_be_visible(timeout=60 * SECONDS)


def test_the_approved_version_is_packaged_as_the_reviews_page_shows(
    servers: Servers, approved: str, page: Page
):
    run_of(servers, approved, "COMPLETED")
    assert champion(servers, NAME) == 1
    assert "from-the-form-bento" in artifacts(servers)
    page.goto(f"{servers.prefect}/runs/flow-run/{approved}")
    expect(page.get_by_text("package-from-the-form").first).to_be_visible(timeout=60 * SECONDS)


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
    first = weighed(images, 0)
    approve(first)
    second, third = weighed(images, 1), weighed(images, 2)
    run = review_of(servers, third)
    decide = (sys.executable, "-m", "aigc_ops", "approve", "pets", str(second))
    by_bob = ("--reviewer", "Bob", "--reason", "by the command line")
    subprocess.run([*decide, *by_bob], cwd=ROOT, check=True)
    told = f"promote models:/pets/{second} by Bob: by the command line"
    eventually(lambda: told in messages)
    answer(page, servers, run, "approve", "Ann", "sharper still")
    asked_again(servers, page, run, "It was evaluated again")
    answer(page, servers, run, "reject", "Ann", "not against this one")
    run_of(servers, run, "COMPLETED")
    assert champion(servers) == second
    back = started(
        servers, "rollback", {"model": "pets", "reviewer": "Bob", "reason": "<!channel> complaints"}
    )
    run_of(servers, back, "COMPLETED")
    assert champion(servers) == first
    rejected = f"reject models:/pets/{third} by Ann: not against this one"
    rolled_back = f"rollback to models:/pets/{first} by Bob: &lt;!channel&gt; complaints"
    eventually(lambda: {rejected, rolled_back} <= set(messages))


@pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning")
def test_where_two_must_agree_the_form_asks_for_another_name(
    servers: Servers, images: Path, page: Page, monkeypatch: pytest.MonkeyPatch
):
    for variable, value in servers.variables.items():
        monkeypatch.setenv(variable, value)
    before, version = champion(servers), weighed(images, 3, reviewers=2)
    run = review_of(servers, version)
    answer(page, servers, run, "approve", "Ann", " ")
    asked_again(servers, page, run, "one of them was empty")
    answer(page, servers, run, "approve", "Ann", "good pets")
    asked_again(servers, page, run, "a second reviewer is required")
    answer(page, servers, run, "approve", "ann", "very good pets")
    asked_again(servers, page, run, "ann has approved")
    assert champion(servers) == before
    answer(page, servers, run, "approve", "Bob", "good indeed")
    run_of(servers, run, "COMPLETED")
    assert champion(servers) == version


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
            # Prefect cancels a run whose process has not ended yet when the runner stops.
            eventually(lambda: has_ended(run))
        with prefect_at(servers, tmp_path):
            run_of(servers, run, "PAUSED")
            digest = packet_digest_of(version)
            said = {"reviewer": "Ann", "reason": "sharper pets", "packet": digest}
            assert answered(servers, run, **said) == "ACCEPT"
            run_of(servers, run, "COMPLETED")
            assert champion(servers) == version

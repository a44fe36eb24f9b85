"""A run triggered from the Prefect form, and its pages in Prefect and MLflow."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SECONDS, Servers, call, deployments, serving
from tests.conftest import eventually

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with serving(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


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
    fill(page, "Name", "from-the-form")
    fill(page, "Generator Width (Optional)", "8")
    fill(page, "Critic Width (Optional)", "8")
    fill(page, "Steps (Optional)", "2")
    fill(page, "Num Samples (Optional)", "16")
    fill(page, "Num Reference (Optional)", "16")
    page.get_by_role("button", name="Submit").click()

    def ended() -> Any:
        runs = call(f"{servers.prefect}/api/flow_runs/filter", {})
        return next(
            (r for r in runs if r["state_type"] in ("COMPLETED", "FAILED", "CRASHED")), None
        )

    return eventually(ended, seconds=300)


def test_every_family_has_a_deployment_with_a_paused_schedule(servers: Servers):
    found = deployments(servers)
    assert sorted(found) == ["gan", "gpt", "guard", "review", "rollback", "vae"]
    for family in ("gan", "gpt", "vae"):
        [schedule] = found[family]["schedules"]
        assert not schedule["active"]
        assert schedule["schedule"]["cron"] == "0 3 * * *"


def test_a_run_from_the_form_completes_with_what_was_typed(servers: Servers, run: Any):
    assert run["state_type"] == "COMPLETED", run["state"]
    assert run["parameters"]["config"]["training"]["steps"] == 2
    assert run["parameters"]["config"]["model"]["generator_width"] == 8


def test_the_runs_name_tells_family_and_data_version(servers: Servers, run: Any):
    assert run["name"].startswith("from-the-form-gan-data-")


def test_the_runs_page_shows_every_stage(servers: Servers, run: Any, page: Page):
    page.goto(f"{servers.prefect}/runs/flow-run/{run['id']}")
    for stage in ("validate", "train", "evaluate", "register", "promote", "package"):
        name = f"{stage}-from-the-form"
        expect(page.get_by_text(name).first).to_be_visible(timeout=60 * SECONDS)


def test_the_artifacts_hold_grid_scores_card_and_links(servers: Servers, run: Any, page: Page):
    artifacts = call(f"{servers.prefect}/api/artifacts/filter", {})
    keys = {artifact["key"]: artifact for artifact in artifacts}
    wanted = {"samples", "scores", "model-card", "verdict", "review-packet", "bento"}
    assert {f"from-the-form-{each}" for each in wanted} <= set(keys)
    assert servers.mlflow in keys["from-the-form-mlflow-model-version"]["data"]
    page.goto(f"{servers.prefect}/artifacts/artifact/{keys['from-the-form-samples']['id']}")
    picture = page.locator("img[src^='data:image/png']").first
    expect(picture).to_be_visible(timeout=60 * SECONDS)
    assert picture.evaluate("image => image.naturalWidth") > 100


def test_mlflow_shows_the_version_with_its_card_and_the_runs_curves(
    servers: Servers, run: Any, page: Page
):
    page.goto(f"{servers.mlflow}/#/models/from-the-form/versions/1")
    expect(page.get_by_text("champion").first).to_be_visible(timeout=60 * SECONDS)
    expect(page.get_by_text("fd_efficientnet_lite0").first).to_be_visible(timeout=60 * SECONDS)

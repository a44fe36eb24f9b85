"""The card and the links that people open."""

from aigc_ops.registry.registration import register
from aigc_ops.registry.ui_links import LOCAL_UI, card, links
from tests.registry.conftest import MakeCheckpoint


def test_a_version_has_a_card_and_three_pages(make_checkpoint: MakeCheckpoint) -> None:
    version = register(make_checkpoint(), None, name="digits")
    assert card(version).startswith("# digits\n")
    assert links(version) == {
        "model-version": f"{LOCAL_UI}/#/models/digits/versions/1",
        "training-run": f"{LOCAL_UI}/#/experiments/1/runs/{version.run_id}",
        "evaluation": f"{LOCAL_UI}/#/experiments/1/runs/{version.run_id}"
        "/artifacts/evaluation/report.html",
    }

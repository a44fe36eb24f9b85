"""The evaluation's report in a browser: folded on screen, whole on paper."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.evaluation.test_report import page as report_page
from tests.evaluation.test_report import score

pytestmark = pytest.mark.browser


def test_contracts_are_folded_on_screen_and_open_on_paper(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_page(fd=score(3.0, n=10, extractor="the extractor")))
    page.goto(file.as_uri())
    term = page.get_by_text("the extractor")
    assert not term.is_visible()
    page.emulate_media(media="print")
    heights = "element => element.getBoundingClientRect().height"
    assert term.evaluate(heights) > 5
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen")
    assert not term.is_visible()

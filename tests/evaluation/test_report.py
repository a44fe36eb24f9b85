"""The report: whole in itself, and nothing in it is taken for markup."""

import re

import pytest
from PIL import Image

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Score
from aigc_ops.evaluation.report import curves_picture, meaning_of, render
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import (
    Audio,
    Findings,
    Note,
    Picture,
    Section,
    Table,
    Text,
    Video,
)

CHECKPOINT = Checkpoint(
    uri="c", manifest_digest="a" * 64, family="gan", modality="image", step=7, dataset_digest="d"
)
REF = DatasetRef(
    uri="<script>alert(1)</script>",
    modality="image",
    content_digest="b" * 64,
    num_train=3,
    num_heldout=1,
    licences=("CC & <b>",),
)


def page(**values: Score) -> str:
    picture = Image.new("RGB", (4, 4), "red")
    findings = Findings(
        notes=[Note("<i>note</i>", alarm=True)],
        sections=[
            Section(
                "Samples",
                "text",
                [
                    ("a < b", Picture(picture)),
                    ("", Table(["<b>"], [["<u>"]])),
                    ("<q>", Text("<pre>\nplain")),
                    ("hear", Audio(b"RIFF")),
                    ("see", Video(b"ftyp")),
                ],
            )
        ],
    )
    return render(CHECKPOINT, REF, "fd", values, findings)


def score(value: float, **contract: object) -> Score:
    return Score(value=value, low=value - 1, high=value + 1, contract=contract)


def test_it_loads_nothing_and_runs_nothing() -> None:
    html = page(fd=score(3.0, n=10))
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "http" not in html.replace("http-equiv", "")
    assert "<script" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("text", ["<script>", "<i>", "<u>", "CC & <b>", "a < b", "<q>", "<pre>"])
def test_texts_are_escaped(text: str) -> None:
    assert text not in page(fd=score(3.0, n=10))


def test_sounds_and_moving_pictures_are_played_from_the_page_itself() -> None:
    html = page(fd=score(3.0, n=10))
    assert "media-src data:" in html
    assert (
        '<audio controls preload="metadata" src="data:audio/wav;base64,UklGRg=="></audio>' in html
    )
    assert (
        '<video controls preload="metadata" src="data:video/mp4;base64,ZnR5cA=="></video>' in html
    )
    assert "&lt;pre&gt;\nplain</pre>" in html


@pytest.mark.parametrize(
    ("modality", "name", "meaning"),
    [
        ("image", "fid", "Fréchet distance to the data in Inception's features; lower is better"),
        ("image", "fid_infinity", "extrapolated to any number of samples: fid"),
        ("image", "kid_std", "standard deviation over subsets of 1,000 of kid"),
        (
            "image",
            "kid_clean",
            "kernel distance in Inception's features of images resized as clean",
        ),
        (
            "image",
            "fd_resnet50_0123abcd",
            "Fréchet distance to the data, lower is better, in the features of resnet50_0123abcd",
        ),
        (
            "text",
            "perplexity",
            "exponential of the negative log-likelihood per token of this tokenizer",
        ),
        ("text", "fid_clean", ""),
    ],
)
def test_a_score_has_the_meaning_that_its_modality_gives_it(
    modality: str, name: str, meaning: str
) -> None:
    assert meaning_of(name, find_modality(modality).meanings) == meaning


def test_scores_stand_with_intervals_and_contracts_once_each() -> None:
    html = page(
        fd=score(3.14159, n=10, seed=1), recall=score(0.5, n=10, seed=1), kd=score(2.0, n=9)
    )
    assert "3.142" in html
    assert "2.14 – 4.14" in html
    assert "Conditions of fd, recall" in html
    assert "Conditions of kd" in html
    assert html.count("(decides)") == 1


def test_curves_are_drawn_for_metrics_of_several_steps() -> None:
    assert curves_picture({"loss": [(1, 2.0)]}) is None
    picture = curves_picture({"loss": [(1, 2.0), (2, 1.0)], "b": [(1, 0.0), (9, 1.0)]})
    assert picture is not None
    assert picture.width > picture.height > 100
    assert len(set(picture.get_flattened_data())) > 10

"""A person's decision: once, on the evidence as it stands, by as many as must agree."""

import base64
import io
import json
from pathlib import Path
from typing import Protocol

import pytest
import torch
from PIL import Image

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import DecisionError, RegistryError
from aigc_ops.core.state_dir import home
from aigc_ops.interfaces.media import Picture, Section, Table
from aigc_ops.modalities.image.metrics.grids import class_grid, pairs_grid
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.promotion.packet import pictures_of, write_packet
from aigc_ops.promotion.review import approve, reject
from aigc_ops.registry.audit_log import audit
from aigc_ops.registry.evidence import CONTENT, PAGE, evidence_of, read_packet, store_packet
from aigc_ops.registry.registration import register
from aigc_ops.registry.versions import champion
from tests.registry.conftest import DATASET, MakeCheckpoint, scores_of

RULING = Ruling(outcome="undecided", reasons=("it may be <b>better</b> or not",))


class Weigh(Protocol):
    def __call__(self, seed: int, **policy: object) -> ModelVersion: ...


@pytest.fixture
def weigh(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Weigh:
    """Registers a version with a review packet against the champion of the moment."""

    def weigh(seed: int, **policy: object) -> ModelVersion:
        checkpoint = make_checkpoint(seed)
        scores = scores_of(checkpoint, 9 - seed)
        version = register(checkpoint, scores, name="digits", dataset=DATASET)
        standing, config = champion("digits"), PromotionConfig.model_validate(policy)
        folder = tmp_path / f"packet-{seed}"
        picture = Image.new("L", (8, 8), seed)
        write_packet(
            folder,
            evidence_of(version),
            evidence_of(standing) if standing else None,
            RULING,
            [
                Section("Samples", items=[("<i>one</i>", Picture(picture))]),
                Section(
                    "Nearest training texts",
                    items=[("", Table(["Text"], [["a <b>cat</b> sat", "<u>a cat</u> sat"]]))],
                ),
            ],
            [("version", {"loss": [(1, 2.0), (2, 1.0)]})],
            config,
        )
        store_packet(version, folder, {"champion": standing.version if standing else None})
        return version

    return weigh


def test_an_approved_version_becomes_champion_with_its_evidence(weigh: Weigh) -> None:
    version = weigh(0)
    assert champion("digits") is None
    verdict = approve(version, who="Ann", reason="sharper digits")
    assert (verdict.promoted, verdict.champion, verdict.gate) == (True, version, "undecided")
    entry = audit("digits").entries[-1]
    assert (entry.who, entry.packet_digest) == ("Ann", verdict.packet_digest)
    with pytest.raises(DecisionError, match="is the champion already"):
        approve(version, who="Bob", reason="me too")


def test_a_rejected_version_stays_rejected_until_it_is_weighed_anew(weigh: Weigh) -> None:
    approve(weigh(0), who="Ann", reason="first")
    version = weigh(1)
    assert not reject(version, who="Bob", reason="blurred").promoted
    with pytest.raises(DecisionError, match="rejected by Bob on this evidence: blurred"):
        approve(version, who="Ann", reason="no, good")
    assert champion("digits").version == 1


def test_a_packet_is_stale_once_the_champion_has_changed(weigh: Weigh) -> None:
    approve(weigh(0), who="Ann", reason="first")
    second, third = weigh(1), weigh(2)
    approve(second, who="Ann", reason="better")
    with pytest.raises(
        DecisionError, match="evaluated against version 1, but version 2 is champion"
    ):
        approve(third, who="Ann", reason="better still")
    with pytest.raises(DecisionError, match="packet 000000000000 is stale"):
        approve(third, who="Ann", reason="as I saw", seen="0" * 64)


def test_a_packet_is_named_by_twelve_characters_at_least(weigh: Weigh) -> None:
    version = weigh(0)
    digest = read_packet(version).packet_digest
    for seen in ("", "0", digest[:11]):
        with pytest.raises(DecisionError, match="does not identify a packet"):
            approve(version, who="Ann", reason="why", seen=seen)
    assert approve(version, who="Ann", reason="why", seen=digest[:12]).promoted


def test_two_people_must_agree_where_the_config_says_so(weigh: Weigh) -> None:
    version = weigh(0, reviewers=2)
    once = approve(version, who="Ann", reason="fine")
    assert (once.promoted, once.waiting, champion("digits")) == (False, True, None)
    for spelling in ("ann", "ＡＮＮ", "Ann\u3000"):
        with pytest.raises(DecisionError, match=r"(?i)ann has approved .* already"):
            approve(version, who=spelling, reason="again")
    assert approve(version, who="Bob", reason="fine too").promoted
    assert [entry.action for entry in audit("digits").entries] == ["approve", "promote"]


def test_a_decision_without_a_name_or_a_reason_is_refused(weigh: Weigh) -> None:
    version = weigh(0)
    for who, reason in (("Ann", "  "), ("", "why"), ("Ann", "x" * 501)):
        with pytest.raises(DecisionError, match=r"is empty|at most"):
            approve(version, who=who, reason=reason)
    assert champion("digits") is None


def test_a_version_without_a_packet_cannot_be_decided_on(make_checkpoint: MakeCheckpoint) -> None:
    version = register(make_checkpoint(), None, name="digits")
    with pytest.raises(DecisionError, match="no review packet; `aigc-ops promote"):
        approve(version, who="Ann", reason="why")


def test_the_packet_is_fetched_and_one_that_was_changed_is_refused(weigh: Weigh) -> None:
    version = weigh(0)
    packet = read_packet(version)
    page = Path(packet.folder) / PAGE
    assert packet.content["scores"][0]["decides"]
    text = page.read_text()
    assert "may be &lt;b&gt;better" in text
    assert "&lt;i&gt;one" in text
    assert "&lt;u&gt;a cat" in text.partition("Nearest training texts")[2]
    order = [text.index(f"<h2>{each}") for each in ("Samples", "Scores", "Nearest training texts")]
    assert order == sorted(order)
    assert "http" not in text.replace("http-equiv", "")
    page.write_text(text + " ")
    assert read_packet(version).packet_digest == packet.packet_digest  # fetched again
    stored = list((home() / "mlflow").rglob(CONTENT))
    assert len(stored) == 1
    content = json.loads(stored[0].read_text())
    stored[0].write_text(json.dumps({**content, "model": "other"}))
    page.write_text(text + " ")
    with pytest.raises(RegistryError, match="was changed in the store"):
        read_packet(version)


def test_what_changed_is_told(weigh: Weigh) -> None:
    approve(weigh(0, cost_per_hour=2.0), who="Ann", reason="first")
    packet = read_packet(weigh(1, cost_per_hour=2.0)).content
    assert packet["changed"] == {"config": [], "data": []}
    assert packet["candidate"]["data"]["licences"] == ["CC-BY-4.0"]
    assert packet["champion"]["version"] == 1


@pytest.mark.parametrize("size", [98, pytest.param(256, marks=pytest.mark.slow)])
def test_a_packet_of_large_pictures_stays_below_10_megabytes(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, size: int
) -> None:
    noise = torch.randint(0, 256, (160, 3, size, size), dtype=torch.uint8)
    grid = class_grid(noise, 16)
    assert grid.width > 10 * size
    pairs = pairs_grid(noise, noise, torch.arange(160), torch.zeros(160))
    version = register(make_checkpoint(), None, name="digits")
    write_packet(
        tmp_path,
        evidence_of(version),
        evidence_of(version),
        RULING,
        [
            Section("Samples", items=[("one", Picture(grid)), ("two", Picture(grid))]),
            Section("Pairs", items=[("one", Picture(pairs)), ("two", Picture(pairs))]),
        ],
        [],
        PromotionConfig(),
    )
    assert (tmp_path / PAGE).stat().st_size < 8e6  # texts and curves come on top
    store_packet(version, tmp_path, {"champion": None})
    (caption, url), _ = pictures_of(read_packet(version))
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as shown:
        assert (caption, shown.format) == ("one", "JPEG")
        assert shown.width >= 1000

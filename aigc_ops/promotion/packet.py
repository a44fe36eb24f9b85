"""Writes the review packet: the evidence for a decision as one HTML page and one JSON file."""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import Score, contract_differences, dotted
from aigc_ops.evaluation.report import (
    PNG,
    curves_picture,
    encoded,
    group_contracts,
    meaning_of,
    section_context,
    template,
)
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Audio, Picture, Section, Video, data_uri
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.registry.evidence import CONTENT, PAGE, Evidence, StoredPacket

JPEG = "data:image/jpeg;base64,"
EXACT_LENGTH = 1_000_000
"""Maximum length of a picture's base64 that is embedded without loss, as PNG."""
MOST_PIXELS = (1088, 1600)
"""Maximum width and height of a larger picture: twice the size at which the page shows it."""
Curves = Mapping[str, Sequence[tuple[int, float]]]
OUTCOMES = {
    "promote": "The gate would promote this version",
    "keep": "The gate keeps the champion",
    "undecided": "The gate could not decide",
}
SHOWN_OF_DATA = (
    "content_digest",
    "dvc_digest",
    "num_train",
    "num_heldout",
    "licences",
    "sources",
)


def write_packet(
    folder: Path,
    candidate: Evidence,
    champion: Evidence | None,
    ruling: Ruling,
    sections: Sequence[Section],
    curves: Sequence[tuple[str, Curves]],
    config: PromotionConfig,
) -> None:
    """Write `packet.html` and `packet.json`, which contains the page's SHA-256, into a folder."""
    content = _content(candidate, champion, ruling, config)
    contracts = [
        (evidence.version.uri, group_contracts(evidence.scores.values))
        for evidence in (candidate, champion)
        if evidence and evidence.scores
    ]
    # The packet's digest is that of the JSON, which contains the page's: one digest covers both.
    # So the page is rendered first, from content without its own digest.
    page = _page(content, sections, curves, contracts)
    content["page_sha256"] = hashlib.sha256(page.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(page, encoding="utf-8")
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / CONTENT).write_text(text, encoding="utf-8")


def _content(
    candidate: Evidence, champion: Evidence | None, ruling: Ruling, config: PromotionConfig
) -> dict[str, Any]:
    sides = {"candidate": candidate, "champion": champion}
    return {
        "model": candidate.version.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "ruling": ruling.model_dump(mode="json"),
        "promotion": config.model_dump(mode="json"),
        "scores": _scores(candidate, champion),
        **{name: _side(evidence, config) for name, evidence in sides.items() if evidence},
        "changed": {
            "config": _changed(_config(champion), _config(candidate)) if champion else [],
            "data": _changed(_data(champion), _data(candidate)) if champion else [],
        },
    }


def _side(evidence: Evidence, config: PromotionConfig) -> dict[str, Any]:
    revision = evidence.provenance.get("revision") or {}
    hours = evidence.seconds / 3600 if evidence.seconds is not None else None
    has_price = hours is not None and config.cost_per_hour is not None
    return {
        "version": evidence.version.version,
        "uri": evidence.version.uri,
        "run_id": evidence.version.run_id,
        "manifest_digest": evidence.version.manifest_digest,
        "steps": evidence.provenance.get("step"),
        "seed": evidence.provenance.get("seed"),
        "commit": revision.get("commit"),
        "uncommitted_changes": revision.get("diff_digest"),
        "trained": _time(evidence.started),
        "hours": hours,
        "machine": evidence.provenance.get("machine"),
        "rate": evidence.provenance.get("rate"),
        "cost": hours * config.cost_per_hour if has_price else None,  # type: ignore[operator]
        "num_bytes": evidence.num_bytes,
        "data": _data(evidence),
    }


def _scores(candidate: Evidence, champion: Evidence | None) -> list[dict[str, Any]]:
    scores = candidate.scores.values if candidate.scores else {}
    reference = champion.scores.values if champion and champion.scores else {}
    primary = candidate.scores.primary if candidate.scores else None
    meanings = find_modality(candidate.scores.modality).meanings if candidate.scores else {}
    return [
        {
            "name": name,
            "meaning": meaning_of(name, meanings),
            "decides": name == primary,
            "candidate": _score(scores.get(name)),
            "champion": _score(reference.get(name)),
            "unequal": contract_differences(scores[name], reference[name])
            if name in scores and name in reference
            else [],
        }
        for name in {**scores, **reference}  # a dict, unlike a set, keeps the order of the rows
    ]


def _score(score: Score | None) -> dict[str, Any] | None:
    return score.model_dump(mode="json") if score else None


def _data(evidence: Evidence) -> dict[str, Any]:
    return {key: evidence.dataset.get(key) for key in SHOWN_OF_DATA if key in evidence.dataset}


def _config(evidence: Evidence) -> dict[str, Any]:
    return dotted(evidence.provenance.get("config") or {})


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "champion": before.get(name), "candidate": after.get(name)}
        for name in sorted({**before, **after})
        if before.get(name) != after.get(name)
    ]


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _page(
    content: Mapping[str, Any],
    sections: Sequence[Section],
    curves: Sequence[tuple[str, Curves]],
    contracts: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
) -> str:
    """Return the page's HTML, with all text escaped and no external resources."""
    # Names, prompts and reasons come from data and people; the page is opened by reviewers.
    page = template(files("aigc_ops.promotion").joinpath("packet.html"), trim_blocks=True)
    plots = [(name, picture) for name, points in curves if (picture := curves_picture(points))]
    return page.render(
        packet=content,
        headline=OUTCOMES[content["ruling"]["outcome"]],
        first_sections=[section_context(section, _inlined) for section in sections[:1]],
        other_sections=[section_context(section, _inlined) for section in sections[1:]],
        curves=[(name, PNG + encoded(image)) for name, image in plots],
        contracts=contracts,
    )


def _inlined(medium: Picture | Audio | Video) -> str:
    """Return a medium as a data URL; large pictures are reduced to the size of the page."""
    if not isinstance(medium, Picture):
        return data_uri(medium)
    exact = encoded(medium.image)
    if len(exact) <= EXACT_LENGTH:
        return PNG + exact
    # Lossless grids of large samples would make a page of many megabytes. JPEG has no alpha channel
    # and no palette, hence RGB.
    small = medium.image.convert("RGB")
    small.thumbnail(MOST_PIXELS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85, optimize=True)
    return JPEG + base64.b64encode(buffer.getvalue()).decode()


def pictures_of(packet: StoredPacket) -> list[tuple[str, str]]:
    """Return the caption and data URL of each picture of samples in a packet's page."""
    pictures: list[tuple[str, str]] = []

    class Pictures(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            attributes = dict(attrs)
            if tag == "img" and attributes.get("class") == "samples":
                pictures.append((attributes["alt"] or "", attributes["src"] or ""))

    # Parsed from the page, since earlier packets have their pictures nowhere else.
    Pictures().feed((Path(packet.folder) / PAGE).read_text(encoding="utf-8"))
    return pictures

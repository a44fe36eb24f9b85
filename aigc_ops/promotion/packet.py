"""The review packet: all that a decision needs, as one HTML page and one JSON file."""

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
    contracts_of,
    curves_picture,
    encoded,
    meaning_of,
    shown,
    template,
)
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Audio, Picture, Section, Video, data_uri
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.registry.evidence import CONTENT, PAGE, Evidence, StoredPacket

JPEG = "data:image/jpeg;base64,"
EXACT_LENGTH = 1_000_000
"""Characters of a picture in base64 up to which each pixel is kept."""
MOST_PIXELS = (1088, 1600)
"""Width and height of a larger one: twice what the page shows it at."""
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
    """Write `packet.html` and `packet.json`, which holds the page's SHA-256, into a folder."""
    content = _content(candidate, champion, ruling, config)
    contracts = [
        (each.version.uri, contracts_of(each.scores.values))
        for each in (candidate, champion)
        if each and each.scores
    ]
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
        **{name: _side(each, config) for name, each in sides.items() if each},
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
    mine = candidate.scores.values if candidate.scores else {}
    theirs = champion.scores.values if champion and champion.scores else {}
    primary = candidate.scores.primary if candidate.scores else None
    meanings = find_modality(candidate.scores.modality).meanings if candidate.scores else {}
    return [
        {
            "name": name,
            "meaning": meaning_of(name, meanings),
            "decides": name == primary,
            "candidate": _score(mine.get(name)),
            "champion": _score(theirs.get(name)),
            "unequal": contract_differences(mine[name], theirs[name])
            if name in mine and name in theirs
            else [],
        }
        for name in {**mine, **theirs}
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
    """Return the page; every text in it is escaped, and it loads nothing."""
    page = template(files("aigc_ops.promotion").joinpath("packet.html"), trim_blocks=True)
    plots = [(name, picture) for name, each in curves if (picture := curves_picture(each))]
    return page.render(
        packet=content,
        headline=OUTCOMES[content["ruling"]["outcome"]],
        first_sections=[shown(section, _inlined) for section in sections[:1]],
        other_sections=[shown(section, _inlined) for section in sections[1:]],
        curves=[(name, PNG + encoded(image)) for name, image in plots],
        contracts=contracts,
    )


def _inlined(medium: Picture | Audio | Video) -> str:
    """Return a medium as a data URL: large pictures only as large as they are shown."""
    if not isinstance(medium, Picture):
        return data_uri(medium)
    exact = encoded(medium.image)
    if len(exact) <= EXACT_LENGTH:
        return PNG + exact
    small = medium.image.convert("RGB")
    small.thumbnail(MOST_PIXELS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85, optimize=True)
    return JPEG + base64.b64encode(buffer.getvalue()).decode()


def pictures_of(packet: StoredPacket) -> list[tuple[str, str]]:
    """Return the caption and data URL of each picture of samples in a packet's page."""
    found: list[tuple[str, str]] = []

    class Pictures(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            if tag == "img" and given.get("class") == "samples":
                found.append((given["alt"] or "", given["src"] or ""))

    Pictures().feed((Path(packet.folder) / PAGE).read_text(encoding="utf-8"))
    return found

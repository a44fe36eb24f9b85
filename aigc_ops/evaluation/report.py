"""Report of an evaluation: one self-contained HTML page."""

import base64
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import JsonValue

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Score, json_digest
from aigc_ops.evaluation.canaries import MEANINGS as CANARY_MEANINGS
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import (
    Audio,
    Findings,
    Picture,
    Section,
    Table,
    Text,
    Video,
    data_uri,
)

if TYPE_CHECKING:
    from jinja2 import Template

PNG = "data:image/png;base64,"
SUFFIX_MEANINGS = {
    "_infinity": "extrapolated to any number of samples:",
    "_std": "standard deviation over subsets of 1,000 of",
}
PREFIX_MEANINGS = {
    "fd_": "Fréchet distance to the data, lower is better, in the features of",
    "kd_": "kernel distance to the data, lower is better, in the features of",
}
"""Meanings of scores that are named after an extractor, by prefix."""
MACROS = "sections.html"


def render(
    checkpoint: Checkpoint,
    ref: DatasetRef,
    primary: str,
    values: Mapping[str, Score],
    findings: Findings,
) -> str:
    """Return the HTML page; all text is escaped, and nothing is loaded from elsewhere."""
    meanings = find_modality(checkpoint.modality).meanings
    page = template(files("aigc_ops.evaluation").joinpath("report.html"), trim_blocks=False)
    return page.render(
        title=f"{checkpoint.family} after {checkpoint.step:,} steps",
        subtitle=f"checkpoint {checkpoint.manifest_digest[:12]} against data {ref.version}",
        notes=findings.notes,
        rows=[_row(name, score, meanings, name == primary) for name, score in values.items()],
        contracts=group_contracts(values),
        sections=[section_context(section, data_url) for section in findings.sections],
        facts=_facts(checkpoint, ref),
    )


def template(source: Traversable, *, trim_blocks: bool) -> "Template":
    """Return a page's template, in which the macro for sections can be imported."""
    from jinja2 import DictLoader, Environment

    # autoescape: captions and samples come from models and datasets, and may hold markup.
    macros = files("aigc_ops.evaluation").joinpath(MACROS).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=trim_blocks, loader=DictLoader({MACROS: macros})
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def section_context(
    section: Section, to_url: Callable[[Picture | Audio | Video], str]
) -> dict[str, Any]:
    """Return a section as the macro's input; consecutive pictures form a group side by side."""
    # Tables and texts take the width of the page, so they end a row of figures. `to_url` differs:
    # a report inlines lossless PNGs, a review packet smaller JPEGs for large pictures.
    groups: list[dict[str, Any]] = []
    for caption, medium in section.items:
        if isinstance(medium, Table):
            groups.append({"columns": medium.columns, "rows": medium.rows, "caption": caption})
        elif isinstance(medium, Text):
            groups.append({"text": medium.text, "caption": caption})
        else:
            if not groups or "figures" not in groups[-1]:
                groups.append({"figures": []})
            groups[-1]["figures"].append(
                {
                    "caption": caption,
                    "kind": medium.media_type.partition("/")[0],
                    "url": to_url(medium),
                    "smooth": isinstance(medium, Picture) and medium.is_smooth,
                }
            )
    return {"heading": section.heading, "text": section.text, "groups": groups}


def data_url(medium: Picture | Audio | Video) -> str:
    """Return a medium as a data URL; pictures become optimised PNGs."""
    if isinstance(medium, Picture):
        return PNG + encoded(medium.image)
    return data_uri(medium)


def _row(name: str, score: Score, meanings: Mapping[str, str], is_primary: bool) -> dict[str, Any]:
    return {
        "name": name,
        "meaning": meaning_of(name, meanings),
        "primary": is_primary,
        "value": f"{score.value:.4g}",
        "low": f"{score.low:.3g}",
        "high": f"{score.high:.3g}",
        "n": score.contract.get("n", ""),
        "seeds": _over_seeds(score),
    }


def _over_seeds(score: Score) -> str:
    """Return mean and spread over sampling seeds as text; empty for a single seed."""
    if not score.other_seeds:
        return ""
    values = (score.value, *score.other_seeds)
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return f"over {len(values)} seeds {mean:.4g}, standard deviation {spread:.2g}"


def meaning_of(name: str, meanings: Mapping[str, str]) -> str:
    """Return the meaning of a score; empty for an unknown name.

    `meanings` are those of the modality; a key that ends in `*` is a prefix of names.
    """
    # Exact names first, then suffixes, then prefixes: `fd_x_std` is a spread, not a distance.
    if named := {**CANARY_MEANINGS, **meanings}.get(name):
        return named
    for suffix, meaning in SUFFIX_MEANINGS.items():
        if name.endswith(suffix):
            return f"{meaning} {name.removesuffix(suffix)}"
    own = {key.removesuffix("*"): value for key, value in meanings.items() if key.endswith("*")}
    # A modality's own prefixes come first; equal ones of the table win.
    for prefix, meaning in {**own, **PREFIX_MEANINGS}.items():
        if name.startswith(prefix):
            return f"{meaning} {name.removeprefix(prefix)}"
    return ""


def group_contracts(values: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Group scores by their evaluation conditions, in the order of the first score of each."""
    keyed = [(json_digest(score.contract), name) for name, score in values.items()]
    # Reversed, so that the first index of a digest wins. `groupby` needs equal keys side by side.
    order = {digest: index for index, (digest, _) in reversed(list(enumerate(keyed)))}
    keyed.sort(key=lambda pair: order[pair[0]])
    groups = []
    for _, group in groupby(keyed, key=lambda pair: pair[0]):
        names = [name for _, name in group]
        groups.append({"names": ", ".join(names), "terms": _terms(values[names[0]].contract)})
    return groups


def _terms(contract: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in contract.items()]


def _facts(checkpoint: Checkpoint, ref: DatasetRef) -> list[tuple[str, str]]:
    return [
        ("Checkpoint", checkpoint.manifest_digest),
        ("MLflow run", checkpoint.run_id or "none"),
        ("Data", f"{ref.uri} ({ref.num_train:,} to train on, {ref.num_heldout:,} held out)"),
        ("Data digest", ref.content_digest),
        ("Pinned by DVC", ref.dvc_digest or "no"),
        ("Licences of the data", ", ".join(ref.licences) or "not stated"),
        ("Sources of the data", ", ".join(ref.sources) or "not stated"),
    ]


def encoded(image: Image.Image) -> str:
    """Return a picture as PNG in base64."""
    # optimize: slower to write, but a page holds many pictures and is stored with every version.
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def curves_picture(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Image.Image | None:
    """Return small plots of a run's metrics over its steps; None if no metric has changed."""
    # The Agg canvas directly: pyplot would choose a display and keep every figure in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plotted = {
        name: points
        for name, points in sorted(curves.items())
        if len({value for _, value in points}) > 1  # a constant needs no plot
    }
    if not plotted:
        return None
    columns = min(3, len(plotted))
    rows = -(-len(plotted) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.0 * rows), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    # strict=False: the last row of the grid may have more axes than metrics remain.
    for axes, (name, points) in zip(
        figure.subplots(rows, columns, squeeze=False).flat, plotted.items(), strict=False
    ):
        axes.plot(*zip(*points, strict=True), linewidth=1, color="#2c6fbb")
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(plotted) :]:
        axes.remove()
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels).convert("RGB")

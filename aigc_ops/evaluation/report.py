"""The report of an evaluation: one HTML page that needs nothing beside it."""

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
"""Of scores that are named after any extractor."""
MACROS = "sections.html"


def render(
    checkpoint: Checkpoint,
    ref: DatasetRef,
    primary: str,
    values: Mapping[str, Score],
    findings: Findings,
) -> str:
    """Return the page; every text in it is escaped, and it loads nothing."""
    meanings = find_modality(checkpoint.modality).meanings
    page = template(files("aigc_ops.evaluation").joinpath("report.html"), trim_blocks=False)
    return page.render(
        title=f"{checkpoint.family} after {checkpoint.step:,} steps",
        subtitle=f"checkpoint {checkpoint.manifest_digest[:12]} against data {ref.version}",
        notes=findings.notes,
        rows=[_row(name, score, meanings, name == primary) for name, score in values.items()],
        contracts=contracts_of(values),
        sections=[shown(section, data_url) for section in findings.sections],
        facts=_facts(checkpoint, ref),
    )


def template(source: Traversable, *, trim_blocks: bool) -> "Template":
    """Return a page's template, which can import the macro that shows sections."""
    from jinja2 import DictLoader, Environment

    macros = files("aigc_ops.evaluation").joinpath(MACROS).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=trim_blocks, loader=DictLoader({MACROS: macros})
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def shown(section: Section, to_url: Callable[[Picture | Audio | Video], str]) -> dict[str, Any]:
    """Return a section as its macro takes it: media in groups that stand side by side."""
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
    """Return a medium as a data URL, pictures as small PNGs as can be."""
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
    """Return the spread of values over seeds, where there are several."""
    if not score.other_seeds:
        return ""
    values = (score.value, *score.other_seeds)
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return f"over {len(values)} seeds {mean:.4g}, standard deviation {spread:.2g}"


def meaning_of(name: str, meanings: Mapping[str, str]) -> str:
    """Return what a score means, also of one named after a network or a way to resize.

    `meanings` are those of the modality; a name in them that ends in `*` is a beginning.
    """
    if name in meanings:
        return meanings[name]
    for suffix, meaning in SUFFIX_MEANINGS.items():
        if name.endswith(suffix):
            return f"{meaning} {name.removesuffix(suffix)}"
    own = {key.removesuffix("*"): value for key, value in meanings.items() if key.endswith("*")}
    for prefix, meaning in {**own, **PREFIX_MEANINGS}.items():
        if name.startswith(prefix):
            return f"{meaning} {name.removeprefix(prefix)}"
    return ""


def contracts_of(values: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Return contracts with the names of the scores under each."""
    keyed = [(json_digest(score.contract), name) for name, score in values.items()]
    order = {digest: place for place, (digest, _) in reversed(list(enumerate(keyed)))}
    keyed.sort(key=lambda pair: order[pair[0]])
    found = []
    for _, group in groupby(keyed, key=lambda pair: pair[0]):
        names = [name for _, name in group]
        found.append({"names": ", ".join(names), "terms": _terms(values[names[0]].contract)})
    return found


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
    """Return a picture as PNG in base64, for a page that needs nothing beside it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def curves_picture(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Image.Image | None:
    """Return small plots of a run's metrics over its steps; None when none has changed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {
        name: points
        for name, points in sorted(curves.items())
        if len({value for _, value in points}) > 1  # a level line tells nothing
    }
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.0 * rows), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (name, points) in zip(
        figure.subplots(rows, columns, squeeze=False).flat, shown.items(), strict=False
    ):
        axes.plot(*zip(*points, strict=True), linewidth=1, color="#2c6fbb")
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(shown) :]:
        axes.remove()
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels).convert("RGB")

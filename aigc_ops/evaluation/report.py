"""The report of an evaluation: one HTML page that needs nothing beside it."""

import base64
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image
from pydantic import JsonValue

from aigc_ops.artifacts import Checkpoint, DatasetRef, Score, json_digest

MEANINGS = {
    "fid": "Fréchet distance to the data in Inception's features; lower is better",
    "fd_efficientnet_lite0": "Fréchet distance to the data in EfficientNet-Lite0's features",
    "kid": "kernel distance in Inception's features, unbiased; lower is better",
    "kd_efficientnet_lite0": "kernel distance in EfficientNet-Lite0's features, unbiased",
    "inception_score": "how sure Inception is of single samples and how varied they are together",
    "precision": "share of samples that lie among real images",
    "recall": "share of real images that lie among samples",
    "density": "real neighbourhoods that a sample lies in, over their number; near 1 is good",
    "coverage": "share of real images with a sample in their neighbourhood",
    "near_duplicates": "share of samples nearer to another than 99 % of real images are to theirs",
    "label_agreement": "share of samples that show the class asked for, as a linear probe sees it",
    "real_label_agreement": "the same of real images: the most to be expected",
    "class_spread": "least spread of a class over the real one's; 0: a class is one image",
    "copies_in_pixels": "share of samples nearer to a training image than 99 % of held-out "
    "images are; 1 % is expected",
    "copies_in_features": "the same among features",
    "nll": "importance-weighted -log likelihood of held-out images, in nats; lower is better",
    "elbo": "evidence lower bound of held-out images, in nats; higher is better",
    "reconstruction": "expected log likelihood part of the bound, in nats",
    "kl": "divergence of the codes from the prior, in nats",
    "bits_per_byte": "surprise at held-out texts; lower is better, whatever the tokenizer",
    "bits_per_byte_before": "… before this training",
    "perplexity": "the same per token of this tokenizer",
    "perplexity_before": "… before this training",
    "distinct_1": "different words over all words drawn",
    "distinct_2": "different pairs of words over all pairs drawn",
    "repetition_4": "share of four-word runs that a text said before",
    "self_bleu_4": "likeness of each text to all others; high: they say the same",
    "fd_minilm": "Fréchet distance to the held-out texts in MiniLM's embeddings; lower is better",
    "kd_minilm": "kernel distance in MiniLM's embeddings, unbiased; lower is better",
    "train_overlap_8": "share of eight-word runs that stand in a training text",
    "real_train_overlap_8": "the same of held-out texts: how far the data repeats itself",
    "longest_match": "words of the longest run that stands in a training text, of at least eight",
    "copies_in_continuations": "share of training texts that come out word for word from their "
    "beginnings; at most 1 % of held-out texts do (or one, of few)",
    "general_bits_per_byte": "surprise at general texts",
    "general_bits_per_byte_before": "… before this training: what was forgotten?",
    "general_perplexity": "the same per token of this tokenizer",
    "general_perplexity_before": "… before this training",
}
OF_ANOTHER = {
    "_infinity": "extrapolated to any number of samples:",
    "_std": "standard deviation over subsets of 1,000 of",
}
STEMS = {
    "fid_": "Fréchet distance in Inception's features of images resized as",
    "kid_": "kernel distance in Inception's features of images resized as",
    "fd_": "Fréchet distance to the data, lower is better, in the features of",
    "kd_": "kernel distance to the data, lower is better, in the features of",
    "inception_score_": "Inception Score by weights or a resizing that are not the standard ones:",
}


@dataclass(frozen=True)
class Section:
    """A part of the report: pictures or a table of texts under a heading."""

    heading: str
    text: str = ""
    pictures: Sequence[tuple[str, Image.Image]] = ()
    """(caption, picture)."""
    columns: Sequence[str] = ()
    """Headings of a table of texts."""
    rows: Sequence[Sequence[str]] = ()
    """Its rows, as wide as there are columns."""
    is_smooth: bool = False
    """Whether pictures are plots, not pixels."""


@dataclass(frozen=True)
class Note:
    """A finding to be read first."""

    text: str
    alarm: bool = False


@dataclass
class Findings:
    """What beside the scores a report shows, in order."""

    notes: list[Note] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def render(
    checkpoint: Checkpoint,
    ref: DatasetRef,
    primary: str,
    values: Mapping[str, Score],
    findings: Findings,
) -> str:
    """The page; every text in it is escaped, and it loads nothing."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=False).from_string(
        files("aigc_ops.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    )
    return page.render(
        title=f"{checkpoint.family} after {checkpoint.step:,} steps",
        subtitle=f"checkpoint {checkpoint.manifest_digest[:12]} against data {ref.version}",
        notes=findings.notes,
        rows=[_row(name, score, name == primary) for name, score in values.items()],
        contracts=contracts_of(values),
        sections=[
            {
                "heading": section.heading,
                "text": section.text,
                "columns": section.columns,
                "rows": section.rows,
                "pictures": [
                    {"caption": caption, "content": encoded(image), "smooth": section.is_smooth}
                    for caption, image in section.pictures
                ],
            }
            for section in findings.sections
        ],
        facts=_facts(checkpoint, ref),
    )


def _row(name: str, score: Score, is_primary: bool) -> dict[str, Any]:
    return {
        "name": name,
        "meaning": meaning_of(name),
        "primary": is_primary,
        "value": f"{score.value:.4g}",
        "low": f"{score.low:.3g}",
        "high": f"{score.high:.3g}",
        "n": score.contract.get("n", ""),
        "seeds": _over_seeds(score),
    }


def _over_seeds(score: Score) -> str:
    """The spread of values over seeds, where there are several."""
    if not score.other_seeds:
        return ""
    values = (score.value, *score.other_seeds)
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return f"over {len(values)} seeds {mean:.4g}, standard deviation {spread:.2g}"


def meaning_of(name: str) -> str:
    """What a score tells, also of one named after a network or a way to resize."""
    if name in MEANINGS:
        return MEANINGS[name]
    for suffix, of_it in OF_ANOTHER.items():
        if name.endswith(suffix):
            return f"{of_it} {name.removesuffix(suffix)}"
    for stem, told in STEMS.items():
        if name.startswith(stem):
            return f"{told} {name.removeprefix(stem)}"
    return ""


def contracts_of(values: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Contracts with the names of the scores under each."""
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
    """A picture as PNG in base64, for a page that needs nothing beside it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def curves_picture(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Image.Image | None:
    """Small plots of a run's metrics over its steps; None when none has changed."""
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

"""Scores of a text model: how well it predicts held-out texts, and what its own are like."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue

from aigc_ops.core.artifacts import DatasetRef, Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.interfaces.ingestion import SPLITS, Split
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.text.metrics.generated import (
    OTHER_TEXTS,
    Likeness,
    copied,
    likeness,
    recital_score,
    variety,
)
from aigc_ops.modalities.text.metrics.overlap import Nearest, Overlap
from aigc_ops.modalities.text.metrics.verbatim import Continued, Verbatim, look_for_recitals
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.sampling import sampler
from aigc_ops.statistics.comparability import score_of
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import Estimate, ratio_estimate
from aigc_ops.statistics.reference import reference_rows, reference_terms

READ_AS = ("text_column", "prompt_column", "documents")
"""Settings of the data that decide what its texts look like, beside the files themselves."""
DECODING = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "stop")
NUM_TEXTS_AT_ONCE = 256
NUM_SHOWN = 8


@dataclass(frozen=True)
class Drawn:
    """Texts of a model, and what they were compared with."""

    asked: Sequence[SampleRequest]
    texts: Sequence[str]
    before: Sequence[str]
    """What the model said to the first requests before its training; empty: nothing is known."""

    @property
    def lines(self) -> str:
        """Return the first of them, to be read."""
        shown = []
        for place, request in enumerate(self.asked[:NUM_SHOWN]):
            shown.append(f"{request.prompt or ''} => {self.texts[place]}\n")
            if self.before:
                shown.append(f"    before: {self.before[place]}\n")
        return "".join(shown)


@dataclass(frozen=True)
class TextScores:
    """The scores of a text model, and what they were made of."""

    primary: str
    values: dict[str, Score]
    drawn: Drawn
    likeness: Likeness | str | None
    """What embeddings tell; what to install for them; None when not asked."""
    overlap: Overlap
    nearest: Sequence[Nearest | None]
    """Each drawn text's nearest training text; None when none shares a word."""
    train: TextData
    recitals: tuple[Verbatim, list[Continued]] | str | None
    """Training texts known by heart; why they were not looked for; None when not asked."""


def text_terms(context: EvaluationContext) -> dict[str, JsonValue]:
    """Return what names the held-out texts in contracts."""
    appearance = {name: context.data_settings[name] for name in READ_AS}
    appearance["image_shape"] = None  # so that references keep their names
    return reference_terms(context.ref, "heldout", context.settings.num_reference, appearance)


def score_texts(model: TextModel, context: EvaluationContext) -> TextScores:
    """Return every score of a text model, and what it was made of.

    Bits per byte compare across tokenizers; perplexities only under one, so their contract
    names it. Of dialogue both are those of the answers given their prompts.
    """
    ref, seed, config = context.ref, context.seed, context.section
    terms = text_terms(context)
    num = terms["num_reference"]
    assert isinstance(num, int), num
    train, heldout = context.read("train"), context.read("heldout")
    data = heldout.take(reference_rows(len(heldout), num))
    origin = model.origin(data)
    if origin is not None:
        origin.to(next(model.parameters()).device)
    values = _predictions(model, origin, data, {"n": num, **terms}, ref, seed=seed)
    if config.general_path:
        values |= _forgetting(model, origin, context)

    drawn = _generate(model, origin, data, num=config.num_texts, seed=seed)
    decoding: JsonValue = {name: getattr(model.config, name, None) for name in DECODING}
    contract: dict[str, JsonValue] = {
        "n": len(drawn.texts),
        "reference": terms["reference"],
        "decoding": decoding,
        "seed": seed,
    }
    values |= variety(drawn.texts, contract, seed=seed)
    alike = likeness(drawn.texts, data, terms, context, decoding=decoding)
    values |= alike.values if isinstance(alike, Likeness) else {}
    shared, overlap, nearest = copied(drawn.texts, data, train, ref, decoding=decoding, seed=seed)
    values |= shared
    recitals = None
    if config.num_beginnings:
        recitals = look_for_recitals(model, train, heldout, num=config.num_beginnings)
        if not isinstance(recitals, str):
            values["copies_in_continuations"] = recital_score(recitals[0], ref)
    return TextScores("bits_per_byte", values, drawn, alike, overlap, nearest, train, recitals)


def _predictions(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    terms: Mapping[str, JsonValue],
    ref: DatasetRef,
    *,
    seed: int,
) -> dict[str, Score]:
    """Return how well held-out texts are predicted."""
    contract: dict[str, JsonValue] = {
        **terms,
        "prompted": data.prompts is not None,
        "precision": "fp32",
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    what = f"{ref.uri}: the held-out texts"
    return _bits_and_perplexity(model, origin, data, contract, what, seed=seed)


def _bits_and_perplexity(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    contract: Mapping[str, JsonValue],
    what: str,
    *,
    seed: int,
) -> dict[str, Score]:
    """Return bits per byte and perplexity of texts, now and before the training."""
    num_bytes = torch.tensor([len(t.encode()) for t in data.texts]).double().numpy()
    if not num_bytes.sum():
        raise EvaluationError(f"{what} are empty; nothing can be predicted")
    nats, num_tokens = negative_log_likelihood(model, data)
    bits = ratio_estimate(nats / math.log(2), num_bytes, seed=seed)
    tokens = ratio_estimate(nats, num_tokens, seed=seed)
    perplexity = Estimate(*map(_exp, (tokens.value, tokens.low, tokens.high)))
    values = {
        "bits_per_byte": score_of(bits, contract),
        "perplexity": score_of(perplexity, {**contract, **model.tokenizer_terms()}),
    }
    if origin is not None:
        before = _bits_and_perplexity(origin, None, data, contract, what, seed=seed)
        values |= {f"{name}_before": score for name, score in before.items()}
    return values


def _generate(
    model: TextModel, origin: TextModel | None, data: TextData, *, num: int, seed: int
) -> Drawn:
    """Return texts of the model, answers to held-out prompts where it takes them.

    Beside the first stands what the model said before its training.
    """
    chosen = sampler.servable(model, data.prompts or (), num)
    asked = sampler.requests(model, num, seed=seed, prompt=chosen or None)
    texts = sampler.draw(model, asked, progress=True)
    before = sampler.draw(origin, asked[:NUM_SHOWN]) if origin is not None else []
    return Drawn(asked, texts, before)


def _forgetting(
    model: TextModel, origin: TextModel | None, context: EvaluationContext
) -> dict[str, Score]:
    """Return how well general texts are predicted."""
    path, seed = context.section.general_path, context.seed
    ref, read = context.open_other(path, prompt_column=None)
    texts = [text for split in SPLITS if _has_rows(ref, split) for text in read(split).texts]
    data = TextData(texts).take(reference_rows(len(texts), context.settings.num_reference))
    contract: dict[str, JsonValue] = {
        "n": len(data),
        "dataset": ref.content_digest,
        "precision": "fp32",
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    values = _bits_and_perplexity(model, origin, data, contract, path, seed=seed)
    return {f"general_{name}": score for name, score in values.items()}


def _has_rows(ref: DatasetRef, split: Split) -> bool:
    return bool(ref.num_train if split == "train" else ref.num_heldout)


def _exp(nats: float) -> float:
    """Return the exponential, finite (as JSON needs it) however sure a model is of a wrong text."""
    return math.exp(min(nats, 700.0))


@torch.inference_mode()
def negative_log_likelihood(model: TextModel, data: TextData) -> tuple[Array, Array]:
    """Return the negative log likelihood (nats) and tokens of each text, both (N,) float64."""
    nats, num_tokens = [], []
    with progress_bar(total=len(data), desc="held-out texts", unit="texts") as bar:
        for start in range(0, len(data), NUM_TEXTS_AT_ONCE):
            part = data.take(range(start, min(start + NUM_TEXTS_AT_ONCE, len(data))))
            likelihoods, counts = model.log_likelihood(part)
            nats.append(-likelihoods.double())
            num_tokens.append(counts.double())
            bar.update(len(part))
    total = torch.cat(nats)
    if not total.isfinite().all():
        index = int((~total.isfinite()).nonzero()[0])
        raise EvaluationError(
            f"the log likelihood of held-out text {index} is {-total[index].item()}; a finite "
            "one was expected, so the model's weights are damaged or it diverged in training"
        )
    return total.numpy(), torch.cat(num_tokens).numpy()

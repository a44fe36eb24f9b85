"""Scores of a text model: how well it predicts held-out texts, and what its own are like."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue

from aigc_ops import sampling
from aigc_ops.artifacts import DatasetRef, Score
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.data.config import SPLITS, Split
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.contracts import score_of
from aigc_ops.evaluation.distances import Array
from aigc_ops.evaluation.drawn import (
    OTHER_TEXTS,
    Likeness,
    copied,
    likeness,
    recital_score,
    variety,
)
from aigc_ops.evaluation.overlap import Nearest, Overlap
from aigc_ops.evaluation.reference import reference_rows, reference_terms
from aigc_ops.evaluation.statistics import Estimate, ratio_estimate
from aigc_ops.evaluation.verbatim import Continued, Verbatim, look_for_recitals
from aigc_ops.generative import TextData, TextModel
from aigc_ops.sample_request import SampleRequest
from aigc_ops.tracking import progress_bar

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
        """The first of them, to be read."""
        shown = []
        for place, request in enumerate(self.asked[:NUM_SHOWN]):
            shown.append(f"{request.prompt or ''} => {self.texts[place]}\n")
            if self.before:
                shown.append(f"    before: {self.before[place]}\n")
        return "".join(shown)


@dataclass(frozen=True)
class JudgedTexts:
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


def score_texts(
    model: TextModel,
    ref: DatasetRef,
    read: Callable[[Split], TextData],
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
) -> JudgedTexts:
    """Every score of a text model, and what it was made of; `read` gives a split.

    Bits per byte compare across tokenizers; perplexities only under one, so their contract
    names it. Of dialogue both are those of the answers given their prompts.
    """
    terms = reference_terms(ref, data_config, config)
    num = terms["num_reference"]
    assert isinstance(num, int), num
    train, heldout = read("train"), read("heldout")
    data = heldout.take(reference_rows(len(heldout), num))
    origin = model.origin(data)
    if origin is not None:
        origin.to(next(model.parameters()).device)
    values = _predictions(model, origin, data, {"n": num, **terms}, ref, seed=seed)
    if config.general_path:
        values |= _forgetting(model, origin, config, seed=seed)

    drawn = _drawn(model, origin, data, config, seed=seed)
    decoding: JsonValue = {name: getattr(model.config, name, None) for name in DECODING}
    contract: dict[str, JsonValue] = {
        "n": len(drawn.texts),
        "reference": terms["reference"],
        "decoding": decoding,
        "seed": seed,
    }
    values |= variety(drawn.texts, contract, seed=seed)
    alike = likeness(drawn.texts, data, terms, config, decoding=decoding, seed=seed, cache=cache)
    values |= alike.values if isinstance(alike, Likeness) else {}
    shared, overlap, nearest = copied(drawn.texts, data, train, ref, decoding=decoding, seed=seed)
    values |= shared
    recitals = None
    if config.num_beginnings:
        recitals = look_for_recitals(model, train, heldout, num=config.num_beginnings)
        if not isinstance(recitals, str):
            values["copies_in_continuations"] = recital_score(recitals[0], ref)
    return JudgedTexts("bits_per_byte", values, drawn, alike, overlap, nearest, train, recitals)


def _predictions(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    terms: Mapping[str, JsonValue],
    ref: DatasetRef,
    *,
    seed: int,
) -> dict[str, Score]:
    """How well held-out texts are predicted."""
    contract: dict[str, JsonValue] = {
        **terms,
        "prompted": data.prompts is not None,
        "precision": "fp32",
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    what = f"{ref.uri}: the held-out texts"
    return _surprises(model, origin, data, contract, what, seed=seed)


def _surprises(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    contract: Mapping[str, JsonValue],
    what: str,
    *,
    seed: int,
) -> dict[str, Score]:
    """Bits per byte and perplexity of texts, now and before the training."""
    num_bytes = torch.tensor([len(t.encode()) for t in data.texts]).double().numpy()
    if not num_bytes.sum():
        raise EvaluationError(f"{what} are empty; nothing can be predicted")
    nats, num_tokens = surprise(model, data)
    bits = ratio_estimate(nats / math.log(2), num_bytes, seed=seed)
    tokens = ratio_estimate(nats, num_tokens, seed=seed)
    perplexity = Estimate(*map(_exp, (tokens.value, tokens.low, tokens.high)))
    values = {
        "bits_per_byte": score_of(bits, contract),
        "perplexity": score_of(perplexity, {**contract, **model.tokenizer_terms()}),
    }
    if origin is not None:
        before = _surprises(origin, None, data, contract, what, seed=seed)
        values |= {f"{name}_before": score for name, score in before.items()}
    return values


def _drawn(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    config: EvaluationConfig,
    *,
    seed: int,
) -> Drawn:
    """Texts of the model, answers to held-out prompts where it takes them.

    Beside the first stands what the model said before its training.
    """
    chosen = sampling.servable(model, data.prompts or (), config.num_texts)
    asked = sampling.requests(model, config.num_texts, seed=seed, prompt=chosen or None)
    texts = sampling.draw(model, asked, progress=True)
    before = sampling.draw(origin, asked[:NUM_SHOWN]) if origin is not None else []
    return Drawn(asked, texts, before)


def _forgetting(
    model: TextModel, origin: TextModel | None, config: EvaluationConfig, *, seed: int
) -> dict[str, Score]:
    """How well general texts are predicted."""
    where = DataConfig(path=config.general_path or "", modality="text", prompt_column=None)
    ref = open_dataset(where)
    texts = [t for split in SPLITS if _rows_of(ref, split) for t in _texts(ref, where, split)]
    data = TextData(texts).take(reference_rows(len(texts), config.num_reference))
    contract: dict[str, JsonValue] = {
        "n": len(data),
        "dataset": ref.content_digest,
        "precision": "fp32",
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    values = _surprises(model, origin, data, contract, where.path, seed=seed)
    return {f"general_{name}": score for name, score in values.items()}


def _rows_of(ref: DatasetRef, split: Split) -> int:
    return ref.num_train if split == "train" else ref.num_heldout


def _texts(ref: DatasetRef, config: DataConfig, split: Split) -> Sequence[str]:
    data = read_split(ref, config, split)
    assert isinstance(data, TextData), type(data)
    return data.texts


def _exp(nats: float) -> float:
    """Exponential, finite (as JSON needs it) for a model that is sure of the wrong text."""
    return math.exp(min(nats, 700.0))


@torch.inference_mode()
def surprise(model: TextModel, data: TextData) -> tuple[Array, Array]:
    """Negative log likelihood (nats) and tokens of each text, both (N,) float64."""
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

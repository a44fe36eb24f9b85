"""Scores of a text model: how well it predicts held-out texts, and how varied its own are."""

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import JsonValue

from aigc_ops import sampling
from aigc_ops.artifacts import DatasetRef, Score, json_digest
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.data.config import SPLITS, Split
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.distances import Array
from aigc_ops.evaluation.reference import reference_rows, reference_terms
from aigc_ops.evaluation.statistics import Estimate, ratio_estimate
from aigc_ops.evaluation.wording import distinct, repetition
from aigc_ops.generative import TextData, TextModel
from aigc_ops.tracking import progress_bar

INTERVAL = "95 %, percentile bootstrap over texts: of other texts like these"
DECODING = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "stop")
NUM_TEXTS_AT_ONCE = 256
NUM_SHOWN = 8


def score_texts(
    model: TextModel,
    ref: DatasetRef,
    heldout: TextData,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
) -> tuple[str, dict[str, Score], str]:
    """The primary metric's name, every score, and sample lines.

    Bits per byte compare across tokenizers; perplexities only under one, so their contract
    names it by its digest. Of dialogue both are those of the answers given their prompts.
    """
    terms = reference_terms(ref, data_config, config)
    num = terms["num_reference"]
    assert isinstance(num, int), num
    data = heldout.take(reference_rows(len(heldout), num))
    contract: dict[str, JsonValue] = {
        "n": num,
        **terms,
        "prompted": data.prompts is not None,
        "precision": "fp32",
        "seed": seed,
        "interval": INTERVAL,
    }
    what = f"{ref.uri}: the held-out texts"
    bits, tokens = _predicted(model, data, what, seed=seed)
    values = {
        "bits_per_byte": _score(bits, contract),
        "perplexity": _score(
            Estimate(*map(_exp, (tokens.value, tokens.low, tokens.high))),
            {**contract, "tokenizer": _tokenizer_digest(model)},
        ),
    }
    origin = model.origin(data)
    if origin is not None:
        origin.to(next(model.parameters()).device)
        before, _ = _predicted(origin, data, what, seed=seed)
        values["bits_per_byte_before"] = _score(before, contract)
    if config.general_path:
        values |= _forgetting(model, origin, config, seed=seed)
    drawn, lines = _drawn(model, origin, data, config, seed=seed)
    return "bits_per_byte", values | _variety(drawn, model, terms, seed=seed), lines


def _score(estimate: Estimate, contract: Mapping[str, JsonValue]) -> Score:
    return Score(
        value=estimate.value, low=estimate.low, high=estimate.high, contract=dict(contract)
    )


def _predicted(
    model: TextModel, data: TextData, what: str, *, seed: int
) -> tuple[Estimate, Estimate]:
    """Bits a byte, and nats a token, by which a model is surprised by texts."""
    num_bytes = torch.tensor([len(t.encode()) for t in data.texts]).double().numpy()
    if not num_bytes.sum():
        raise EvaluationError(f"{what} are empty; nothing can be predicted")
    nats, num_tokens = surprise(model, data)
    bits = ratio_estimate(nats / math.log(2), num_bytes, seed=seed)
    return bits, ratio_estimate(nats, num_tokens, seed=seed)


def _tokenizer_digest(model: TextModel) -> str:
    return json_digest({"family": model.config.family, "blueprint": model.blueprint()})


def _drawn(
    model: TextModel,
    origin: TextModel | None,
    data: TextData,
    config: EvaluationConfig,
    *,
    seed: int,
) -> tuple[list[str], str]:
    """Texts of the model, answers to held-out prompts where it takes them; some to be read.

    Beside these stands what the model said before its training.
    """
    chosen = sampling.servable(model, data.prompts or (), config.num_texts)
    asked = sampling.requests(model, config.num_texts, seed=seed, prompt=chosen or None)
    texts = sampling.draw(model, asked, progress=True)
    asked = asked[:NUM_SHOWN]
    before = sampling.draw(origin, asked) if origin is not None else []
    lines = [f"{each.prompt or ''} => {text}" for each, text in zip(asked, texts, strict=False)]
    for place, text in reversed(list(enumerate(before, start=1))):
        lines.insert(place, f"    before: {text}")
    return texts, "".join(f"{line}\n" for line in lines)


def _variety(
    texts: Sequence[str], model: TextModel, terms: Mapping[str, JsonValue], *, seed: int
) -> dict[str, Score]:
    """How varied drawn texts are; what no text is long enough to tell is left out."""
    contract: dict[str, JsonValue] = {
        "n": len(texts),
        "reference": terms["reference"],
        "decoding": {name: getattr(model.config, name, None) for name in DECODING},
        "seed": seed,
    }
    distinct_interval = "95 %, delete-a-group jackknife over texts: of this number of texts"
    found = {
        "distinct_1": (distinct(texts, 1), distinct_interval),
        "distinct_2": (distinct(texts, 2), distinct_interval),
        "repetition_4": (repetition(texts, seed=seed), INTERVAL),
    }
    return {
        name: _score(estimate, {**contract, "interval": interval})
        for name, (estimate, interval) in found.items()
        if estimate is not None
    }


def _forgetting(
    model: TextModel, origin: TextModel | None, config: EvaluationConfig, *, seed: int
) -> dict[str, Score]:
    """Bits per byte of general texts, now and before the training."""
    where = DataConfig(path=config.general_path or "", modality="text", prompt_column=None)
    ref = open_dataset(where)
    texts = [t for split in SPLITS if _rows_of(ref, split) for t in _texts(ref, where, split)]
    data = TextData(texts).take(reference_rows(len(texts), config.num_reference))
    contract: dict[str, JsonValue] = {
        "n": len(data),
        "dataset": ref.content_digest,
        "precision": "fp32",
        "seed": seed,
        "interval": INTERVAL,
    }
    models = {"general_bits_per_byte": model, "general_bits_per_byte_before": origin}
    return {
        name: _score(_predicted(each, data, str(config.general_path), seed=seed)[0], contract)
        for name, each in models.items()
        if each is not None
    }


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

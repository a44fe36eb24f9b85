"""Samples of a trained model: check requests, generate in batches, measure the rate."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Generic, TypeVar

import torch

from aigc_ops.compute.random import MAX_SEED, sample_seeds
from aigc_ops.core.errors import ModelError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest, unseeded

MAX_SAMPLES = 1_000_000
BATCH_SIZE = 64
NUM_CLASSES_NAMED = 100
SamplesT = TypeVar("SamplesT")
Conditions = Mapping[str, Any]
"""Values of conditions by name."""


@dataclass(frozen=True)
class GeneratedSamples(Generic[SamplesT]):
    """Samples and the rate at which they were generated."""

    samples: SamplesT
    rate: float | None
    """The modality's units per second, without warm-up; None if nothing was generated."""


def requests(
    model: Generative[Any],
    num: int,
    *,
    seed: int,
    conditions: Conditions | Sequence[Conditions] = (),
    controls: Mapping[str, float] | None = None,
    max_num: int = MAX_SAMPLES,
) -> list[SampleRequest]:
    """Return requests for `num` samples, each checked against the model.

    A list of conditions is cycled through, one mapping of values by name per sample; a single
    mapping and the controls apply to every sample. Conditions that are not given have their
    defaults: labels cycle through the model's classes. Raises ModelError for a request that the
    model cannot serve.
    """
    if not 0 <= num <= max_num:
        raise ModelError(f"num is {num}; give a number of samples from 0 to {max_num}")
    if not 0 <= seed <= MAX_SEED:
        raise ModelError(f"seed is {seed}; give a whole number from 0 to {MAX_SEED}")
    given = [conditions] if isinstance(conditions, Mapping) else [*conditions] or [{}]
    sample_requests = [
        SampleRequest(
            sample_seed,
            _with_defaults(model, index, given[index % len(given)]),
            controls or {},
        )
        for index, sample_seed in enumerate(sample_seeds(seed, num))
    ]
    check_requests(model, sample_requests)
    return sample_requests


def _with_defaults(model: Generative[Any], index: int, conditions: Conditions) -> dict[str, Any]:
    """Return the conditions of the index-th sample, with defaults for those not given."""
    completed = dict(conditions)
    for condition in find_modality(model.modality).requests.conditions:
        if completed.get(condition.name) is None:
            completed[condition.name] = condition.default(model, index)
    return completed


def class_label(model: Generative[Any], word: str) -> int:
    """Return the label of a class given by number or name.

    Raises ModelError that lists the classes for any other word.
    """
    names = model.class_names
    if not names:
        raise ModelError("this model has no classes; leave the label out")
    # A number goes first, also where classes have digits as their names.
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    if word in names:
        return names.index(word)
    known = ", ".join(f"{label} ({name})" for label, name in enumerate(names[:NUM_CLASSES_NAMED]))
    more = ", …" if len(names) > NUM_CLASSES_NAMED else ""
    raise ModelError(f"{word!r} is not a class; the classes are {known}{more}")


def check_requests(model: Generative[Any], sample_requests: Sequence[SampleRequest]) -> None:
    """Raise ModelError when the model cannot serve one of the requests."""
    # Neighbours that differ only in their seed are checked once: a GPT encodes the prompt for it.
    for alike, _ in groupby(sample_requests, key=unseeded):
        model.check(alike)


def filter_valid_prompts(model: Generative[Any], prompts: Iterable[str], num: int) -> list[str]:
    """Return the first `num` prompts that the model accepts; too long ones are skipped."""
    fitting = (prompt for prompt in prompts if accepts(model, SampleRequest(0, {"prompt": prompt})))
    return list(islice(fitting, num))


def accepts(model: Generative[Any], request: SampleRequest) -> bool:
    """Return whether the model can serve the request."""
    try:
        model.check(request)
    except ModelError:
        return False
    return True


def generate(
    model: Generative[SamplesT],
    sample_requests: Sequence[SampleRequest],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> SamplesT:
    """Return one sample per request, generated in fp32 and eval mode.

    Raises ModelError before anything is generated when the model cannot serve a request.
    """
    with _bar(model, len(sample_requests), progress) as bar:
        return _generate(model, sample_requests, batch_size, bar)


def generate_timed(
    model: Generative[SamplesT],
    sample_requests: Sequence[SampleRequest],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> GeneratedSamples[SamplesT]:
    """Return the samples of `generate`, and the rate of generation after a warm-up."""
    # The warm-up is the first batch. If all samples fit into one batch it is the first sample; a
    # single sample is generated twice and timed the second time.
    codec = find_modality(model.modality).samples
    warmup = batch_size if len(sample_requests) > batch_size else 1
    timed = sample_requests[warmup:] or sample_requests
    with _bar(model, len(sample_requests[:warmup]) + len(timed), progress) as bar:
        first = _generate(model, sample_requests[:warmup], batch_size, bar)
        started = time.perf_counter()
        rest = _generate(model, timed, batch_size, bar)
        seconds = time.perf_counter() - started
    # The repeated single sample is not part of the result.
    rate = codec.count(model, timed, rest) / seconds if sample_requests else None
    return GeneratedSamples(
        codec.join([first, rest]) if len(sample_requests) > warmup else first, rate
    )


def _bar(model: Generative[Any], num: int, progress: bool) -> Any:
    return progress_bar(total=num, unit=model.modality, desc="sample", disable=not progress)


def _generate(
    model: Generative[SamplesT], sample_requests: Sequence[SampleRequest], batch_size: int, bar: Any
) -> SamplesT:
    check_requests(model, sample_requests)
    batches: list[SamplesT] = []
    with inference(model):
        # At least one call, so that no requests give an empty batch of the right type.
        for start in range(0, max(len(sample_requests), 1), batch_size):
            batch = sample_requests[start : start + batch_size]
            batches.append(model.sample(batch))
            bar.update(len(batch))
    samples: SamplesT = find_modality(model.modality).samples.join(batches)
    return samples


@contextmanager
def inference(model: Generative[Any]) -> Iterator[None]:
    """Use a model in eval mode and fp32, without gradients."""
    was_training = model.training
    model.eval()
    device = next((p.device.type for p in model.parameters()), "cpu")
    try:
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            yield
    finally:
        model.train(was_training)

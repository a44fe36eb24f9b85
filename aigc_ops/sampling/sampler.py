"""Samples of a trained model: check requests, generate in batches, measure the rate."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Generic, TypeVar

import torch

from aigc_ops.compute.random import MAX_SEED, sample_seeds
from aigc_ops.core.errors import ModelError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Message, SampleRequest, unseeded

MAX_SAMPLES = 1_000_000
BATCH_SIZE = 64
NUM_CLASSES_NAMED = 100
SamplesT = TypeVar("SamplesT")


@dataclass(frozen=True)
class Drawn(Generic[SamplesT]):
    """Samples and how fast they came."""

    samples: SamplesT
    rate: float | None
    """The modality's units per second, warm-up excluded; None when nothing was drawn."""


def requests(
    model: Generative[Any],
    num: int,
    *,
    seed: int,
    label: int | None = None,
    prompt: str | Sequence[str] | None = None,
    controls: Mapping[str, float] | None = None,
    history: Sequence[Message] = (),
    stop: Sequence[str] = (),
    max_num: int = MAX_SAMPLES,
) -> list[SampleRequest]:
    """Return requests for `num` samples, each checked against the model.

    A model with classes goes round them when no label is given; several
    prompts are gone round likewise; controls, history and stop are those of every sample.
    Raises ModelError for what the model cannot serve.
    """
    if not 0 <= num <= max_num:
        raise ModelError(f"num is {num}; give a number of samples from 0 to {max_num}")
    if not 0 <= seed <= MAX_SEED:
        raise ModelError(f"seed is {seed}; give a whole number from 0 to {MAX_SEED}")
    prompts: list[str | None] = [prompt] if isinstance(prompt, str) else [*(prompt or ())]
    num_classes = model.num_classes
    asked = [
        SampleRequest(
            seed=each,
            label=index % num_classes if label is None and num_classes else label,
            prompt=prompts[index % len(prompts)] if prompts else None,
            controls=controls or {},
            history=tuple(history),
            stop=tuple(stop),
        )
        for index, each in enumerate(sample_seeds(seed, num))
    ]
    check_requests(model, asked)
    return asked


def class_label(model: Generative[Any], word: str) -> int:
    """Return the label that a class's number or name stands for.

    Raises ModelError naming the classes for any other word.
    """
    names = model.class_names
    if not names:
        raise ModelError("this model has no classes; leave the label out")
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    if word in names:
        return names.index(word)
    known = ", ".join(f"{label} ({name})" for label, name in enumerate(names[:NUM_CLASSES_NAMED]))
    more = ", …" if len(names) > NUM_CLASSES_NAMED else ""
    raise ModelError(f"{word!r} is not a class; the classes are {known}{more}")


def check_requests(model: Generative[Any], asked: Sequence[SampleRequest]) -> None:
    """Raise ModelError when the model cannot serve one of the requests."""
    for alike, _ in groupby(asked, key=unseeded):
        model.check(alike)


def servable(model: Generative[Any], prompts: Iterable[str], num: int) -> list[str]:
    """Return the first `num` prompts that the model can take; those too long are skipped."""
    fitting = (prompt for prompt in prompts if takes(model, SampleRequest(seed=0, prompt=prompt)))
    return list(islice(fitting, num))


def takes(model: Generative[Any], request: SampleRequest) -> bool:
    """Return whether the model can serve the request."""
    try:
        model.check(request)
    except ModelError:
        return False
    return True


def draw(
    model: Generative[SamplesT],
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> SamplesT:
    """Return one sample per request, generated in fp32 and eval mode.

    Raises ModelError before anything is drawn when the model cannot serve a request.
    """
    with _bar(model, len(asked), progress) as bar:
        return _draw(model, asked, batch_size, bar)


def draw_timed(
    model: Generative[SamplesT],
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Drawn[SamplesT]:
    """Return what `draw` returns, and the rate at which it came after the warm-up.

    The first batch is the warm-up; when all would fit in it, the first sample alone is,
    and a single sample is drawn twice.
    """
    codec = find_modality(model.modality).samples
    warmup = batch_size if len(asked) > batch_size else 1
    timed = asked[warmup:] or asked
    with _bar(model, len(asked[:warmup]) + len(timed), progress) as bar:
        first = _draw(model, asked[:warmup], batch_size, bar)
        started = time.perf_counter()
        rest = _draw(model, timed, batch_size, bar)
        seconds = time.perf_counter() - started
    rate = codec.count(model, timed, rest) / seconds if asked else None
    return Drawn(codec.join([first, rest]) if len(asked) > warmup else first, rate)


def _bar(model: Generative[Any], num: int, progress: bool) -> Any:
    return progress_bar(total=num, unit=model.modality, desc="sample", disable=not progress)


def _draw(
    model: Generative[SamplesT], asked: Sequence[SampleRequest], batch_size: int, bar: Any
) -> SamplesT:
    check_requests(model, asked)
    batches: list[SamplesT] = []
    training = model.training
    model.eval()
    device = next((p.device.type for p in model.parameters()), "cpu")
    try:
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            for start in range(0, max(len(asked), 1), batch_size):
                batch = asked[start : start + batch_size]
                batches.append(model.sample(batch))
                bar.update(len(batch))
    finally:
        model.train(training)
    samples: SamplesT = find_modality(model.modality).samples.join(batches)
    return samples

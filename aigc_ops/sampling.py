"""Samples of a trained model: asking, drawing, writing to a folder and reading back."""

import io
import json
import math
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from aigc_ops.errors import CheckpointError, ModelError
from aigc_ops.generative import Generative, ImageModel, TextData, TextModel
from aigc_ops.noise import MAX_SEED, sample_seeds
from aigc_ops.origin import RECORD, Origin, png_info
from aigc_ops.plain import printable
from aigc_ops.sample_request import Message, SampleRequest, unseeded
from aigc_ops.tracking import progress_bar

MAX_SAMPLES = 1_000_000
BATCH_SIZE = 64
TEXTS = "samples.txt"
GOLDEN = "golden"
STAGING = ".samples.partial"
GRID_PADDING = 2
NUM_CLASSES_NAMED = 100

Samples = Tensor | list[str]
"""(N, C, H, W) uint8 images on the CPU, or N texts."""


@dataclass(frozen=True)
class Drawn:
    """Samples and how fast they came."""

    samples: Samples
    rate: float | None
    """Images or tokens per second, warm-up excluded; None when nothing was drawn."""


def requests(
    model: Generative,
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
    """Requests for `num` samples, each checked against the model.

    A conditional image model goes round its classes when no label is given; several
    prompts are gone round likewise; controls, history and stop are those of every sample.
    Raises ModelError for what the model cannot serve.
    """
    if not 0 <= num <= max_num:
        raise ModelError(f"num is {num}; give a number of samples from 0 to {max_num}")
    if not 0 <= seed <= MAX_SEED:
        raise ModelError(f"seed is {seed}; give a whole number from 0 to {MAX_SEED}")
    prompts: list[str | None] = [prompt] if isinstance(prompt, str) else [*(prompt or ())]
    num_classes = model.shape.num_classes if isinstance(model, ImageModel) else 0
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


def class_label(model: Generative, word: str) -> int:
    """The label that a class's number or name stands for; raises ModelError with the classes."""
    names = model.shape.class_names if isinstance(model, ImageModel) else ()
    if not names:
        raise ModelError("this model has no classes; leave the label out")
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    if word in names:
        return names.index(word)
    known = ", ".join(f"{label} ({name})" for label, name in enumerate(names[:NUM_CLASSES_NAMED]))
    more = ", …" if len(names) > NUM_CLASSES_NAMED else ""
    raise ModelError(f"{word!r} is not a class; the classes are {known}{more}")


def check_requests(model: Generative, asked: Sequence[SampleRequest]) -> None:
    """Raise ModelError when the model cannot serve one of the requests."""
    for alike, _ in groupby(asked, key=unseeded):
        model.check(alike)


def servable(model: Generative, prompts: Iterable[str], num: int) -> list[str]:
    """The first `num` prompts that the model can take; too long a one is passed over."""
    fitting = (prompt for prompt in prompts if takes(model, SampleRequest(seed=0, prompt=prompt)))
    return list(islice(fitting, num))


def takes(model: Generative, request: SampleRequest) -> bool:
    """Whether the model can serve the request."""
    try:
        model.check(request)
    except ModelError:
        return False
    return True


@overload
def draw(
    model: ImageModel,
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = ...,
    progress: bool = ...,
) -> Tensor: ...
@overload
def draw(
    model: TextModel,
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = ...,
    progress: bool = ...,
) -> list[str]: ...
@overload
def draw(
    model: Generative,
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = ...,
    progress: bool = ...,
) -> Samples: ...
def draw(
    model: Generative,
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Samples:
    """One sample per request, in fp32 and eval mode: (N, C, H, W) uint8, or N texts.

    Raises ModelError before anything is drawn when the model cannot serve a request.
    """
    with _bar(model, len(asked), progress) as bar:
        return _draw(model, asked, batch_size, bar)


def draw_timed(
    model: Generative,
    asked: Sequence[SampleRequest],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Drawn:
    """What `draw` returns, and the rate at which it came after the warm-up.

    The first batch is the warm-up; when all would fit in it, the first sample alone is,
    and a single sample is drawn twice.
    """
    warmup = batch_size if len(asked) > batch_size else 1
    timed = asked[warmup:] or asked
    with _bar(model, len(asked[:warmup]) + len(timed), progress) as bar:
        first = _draw(model, asked[:warmup], batch_size, bar)
        started = time.perf_counter()
        rest = _draw(model, timed, batch_size, bar)
        seconds = time.perf_counter() - started
    rate = _num_units(model, timed, rest) / seconds if asked else None
    return Drawn(_join([first, rest]) if len(asked) > warmup else first, rate)


def _bar(model: Generative, num: int, progress: bool) -> Any:
    return progress_bar(total=num, unit=model.modality, desc="sample", disable=not progress)


def _draw(model: Generative, asked: Sequence[SampleRequest], batch_size: int, bar: Any) -> Samples:
    assert isinstance(model, ImageModel | TextModel), type(model)
    check_requests(model, asked)
    batches: list[Samples] = []
    training = model.training
    model.eval()
    device = next((p.device.type for p in model.parameters()), "cpu")
    try:
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            for start in range(0, max(len(asked), 1), batch_size):
                batches.append(model.sample(asked[start : start + batch_size]))
                bar.update(len(batches[-1]))
    finally:
        model.train(training)
    return _join(batches)


def _join(batches: Sequence[Samples]) -> Samples:
    images = [batch for batch in batches if isinstance(batch, Tensor)]
    texts = [batch for batch in batches if not isinstance(batch, Tensor)]
    return torch.cat(images) if images else [text for batch in texts for text in batch]


def _num_units(model: Generative, asked: Sequence[SampleRequest], samples: Samples) -> int:
    if isinstance(samples, Tensor):
        return len(samples)
    # The family's own count of tokens; one pass of scoring is cheap beside the drawing.
    assert isinstance(model, TextModel), type(model)
    prompts = [request.prompt for request in asked if request.prompt is not None]
    data = TextData(samples, prompts if len(prompts) == len(samples) else None)
    with torch.inference_mode():
        _, num_tokens = model.log_likelihood(data)
    return int(num_tokens.sum())


def write_samples(
    samples: Samples,
    asked: Sequence[SampleRequest],
    folder: Path,
    *,
    origin: Origin | None = None,
) -> None:
    """Write `00000.png`, `00001.png` ... or `samples.txt`, and `samples.jsonl`, in order.

    Images keep their own size, one channel as greyscale. `samples.txt` holds one text a
    line, its backslashes and control characters escaped; `samples.jsonl` holds it exactly.
    Each carries its origin when one is given. What a former call wrote is replaced; any other
    PNG in the folder is refused.
    """
    assert len(samples) == len(asked), (len(samples), len(asked))
    try:
        former = _former_files(folder)
        try:
            names = _stage(samples, asked, folder / STAGING, origin)
        except OSError:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            raise
        for path in former:
            path.unlink(missing_ok=True)
        # The record goes last: until then the staging folder tells the next call whose
        # files these are.
        for name in [*names, RECORD]:
            (folder / STAGING / name).replace(folder / name)
        (folder / STAGING).rmdir()
    except OSError as error:
        raise ModelError(
            f"{folder}: the samples cannot be written ({error.strerror or error}); "
            "free space or give another folder"
        ) from error


def _stage(
    samples: Samples, asked: Sequence[SampleRequest], staging: Path, origin: Origin | None
) -> list[str]:
    """Write all files into a hidden folder; return the names of all but the record."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    if isinstance(samples, Tensor):
        names = _write_images(samples, asked, staging, origin)
    else:
        names = [TEXTS]
        lines = "".join(f"{_one_line(text)}\n" for text in samples)
        (staging / TEXTS).write_text(lines, encoding="utf-8", newline="")
    (staging / RECORD).write_text(_record(samples, asked, origin), encoding="utf-8", newline="")
    return names


def _former_files(folder: Path) -> list[Path]:
    """What a former call left in the folder; raises ModelError when PNGs are foreign."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ModelError(f"{folder}: not a folder; give another one for the samples")
    ours = (folder / RECORD).is_file() or (folder / STAGING).is_dir()
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png")
    foreign = [p for p in images if not ours or not re.fullmatch(r"\d{5,7}\.png", p.name)]
    if foreign:
        raise ModelError(
            f"{folder}: holds {foreign[0].name}, which is no sample of a former call; "
            "samples go into a folder without other PNGs, so give a new one"
        )
    return [*images, *(folder / name for name in (RECORD, TEXTS) if ours)]


def _write_images(
    images: Tensor, asked: Sequence[SampleRequest], folder: Path, origin: Origin | None
) -> list[str]:
    names = [f"{index:05d}.png" for index in range(len(images))]
    for name, image, request in zip(names, images, asked, strict=True):
        (folder / name).write_bytes(png_bytes(image, png_info(origin, request) if origin else None))
    return names


def _record(samples: Samples, asked: Sequence[SampleRequest], origin: Origin | None) -> str:
    rows: list[dict[str, Any]] = []
    for index, request in enumerate(asked):
        row: dict[str, Any]
        if isinstance(samples, Tensor):
            row = {"file": f"{index:05d}.png", "label": request.label, "seed": request.seed}
        else:
            row = {"file": TEXTS, "label": None, "prompt": request.prompt, "text": samples[index]}
            row["seed"] = request.seed
        if origin:
            row["model"] = origin.manifest_digest
        if request.controls:
            row["controls"] = dict(request.controls)
        if request.history:
            row["history"] = request.history
        if request.stop:
            row["stop"] = request.stop
        rows.append(row)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _one_line(text: str) -> str:
    """The text with backslashes and whatever may end a line escaped as in Python."""
    return printable(text.replace("\\", "\\\\"))


def read_samples(folder: Path) -> tuple[list[SampleRequest], Samples]:
    """The requests and samples that `write_samples` wrote, in order."""
    try:
        rows = [json.loads(line) for line in (folder / RECORD).read_text("utf-8").split("\n")[:-1]]
        asked = [
            SampleRequest(
                row["seed"],
                row.get("label"),
                row.get("prompt"),
                row.get("controls", {}),
                tuple(Message(*turn) for turn in row.get("history", ())),
                tuple(row.get("stop", ())),
            )
            for row in rows
        ]
        if rows and "text" in rows[0]:
            return asked, [row["text"] for row in rows]
        images = [torch.from_numpy(_read_image(folder / Path(row["file"]).name)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD}: not readable samples ({error})") from error
    return asked, torch.stack(images) if images else torch.empty(0, 1, 0, 0, dtype=torch.uint8)


def read_golden(folder: Path) -> tuple[list[SampleRequest], Samples]:
    """Requests and samples kept with a registered model folder when it was registered."""
    if not (folder / GOLDEN / RECORD).is_file():
        raise CheckpointError(
            f"{folder}: keeps no golden samples; register the checkpoint and use the version"
        )
    return read_samples(folder / GOLDEN)


def to_pil(image: Tensor) -> Image.Image:
    """A (C, H, W) uint8 image as a picture, greyscale for one channel."""
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def png_bytes(image: Tensor, info: PngInfo | None = None) -> bytes:
    """A (C, H, W) uint8 image encoded as PNG, with the chunks of `info`."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _read_image(path: Path) -> "np.ndarray[Any, Any]":
    with Image.open(path, formats=["PNG"]) as picture:
        array = np.array(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy()


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """One picture of all (N, C, H, W) uint8 images, row by row, 2 px of white between.

    Small images are enlarged by a whole factor to about 64 px, without smoothing.
    """
    num, _, height, width = images.shape
    columns = columns or max(1, math.ceil(math.sqrt(num)))
    rows = max(1, math.ceil(num / columns))
    scale = max(1, round(64 / max(height, width, 1)))
    high, wide = height * scale + GRID_PADDING, width * scale + GRID_PADDING
    size = (columns * wide + GRID_PADDING, rows * high + GRID_PADDING)
    sheet = Image.new("L" if images.shape[1] == 1 else "RGB", size, "white")
    for index, image in enumerate(images):
        picture = to_pil(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        left, top = index % columns * wide, index // columns * high
        sheet.paste(picture, (left + GRID_PADDING, top + GRID_PADDING))
    return sheet

"""What follows when memory runs out: batches in more parts, or what to lower."""

import gc
import re
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from tqdm import tqdm

from aigc_ops.errors import TrainingError
from aigc_ops.generative import FamilyConfig
from aigc_ops.models import family_type
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.folder import RunFolder

T = TypeVar("T")

# How CUDA, MPS, the CPU, oneDNN and C++ begin; all but CUDA raise plain RuntimeErrors.
EXHAUSTED = re.compile(
    r"out of memory|DefaultCPUAllocator: can't allocate memory|could not create a primitive"
    r"|could not create a memory object|std::bad_alloc",
    re.IGNORECASE,
)
ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+ ?\w+)", re.IGNORECASE)
FREE = re.compile(r"of which ([\d.]+ ?\w+) is free")
SIZES = ("width", "num_layers", "context_length")


def within_memory(
    attempt: Callable[[TrainingConfig], T],
    config: TrainingConfig,
    model: FamilyConfig,
    folder: RunFolder,
    *,
    may_split: bool,
) -> T:
    """What the attempt returns, tried again with more micro-batches as long as memory runs out.

    An attempt goes on from the newest checkpoint, so a step that memory cut short, a part
    of it perhaps taken, leaves no trace. Raises TrainingError when nothing is left to split.
    """
    while True:
        try:
            return attempt(config)
        except (RuntimeError, MemoryError) as error:
            problem = _exhausted(error)
            if problem is None:
                raise
            # Python and NumPy hold the data, which smaller parts of a batch leave as it is.
            may_split &= config.halve_on_out_of_memory and not isinstance(error, MemoryError)
            num = _more_parts(config) if may_split else None
            if num is None:
                advice = _advice(config, model, folder)
                raise TrainingError(f"{problem}; {advice}") from error
        tqdm.write(
            f"warning: {problem}; going on from the newest checkpoint with batches of "
            f"{config.batch_size} in {num} micro_batches instead of {config.micro_batches}",
            file=sys.stderr,
        )
        config = config.model_copy(update={"micro_batches": num})
        gc.collect()  # the attempt's tensors, which its traceback held until here
        torch.cuda.empty_cache()


def _exhausted(error: RuntimeError | MemoryError) -> str | None:
    """That memory ran out, with what was asked and free where it is known; else None."""
    text, told = str(error), torch.OutOfMemoryError | MemoryError
    if not isinstance(error, told) and not EXHAUSTED.search(text):
        return None
    asked, free = ASKED.search(text), FREE.search(text)
    details = [f"asked for {asked[1]}"] if asked else []
    details += [f"{free[1]} free"] if free else []
    return "memory ran out" + (f" ({', '.join(details)})" if details else "")


def _more_parts(config: TrainingConfig) -> int | None:
    """The next number of micro-batches, at least twice as many, that divides the batch."""
    numbers = range(2 * config.micro_batches, config.batch_size + 1)
    return next((num for num in numbers if config.batch_size % num == 0), None)


def _advice(config: TrainingConfig, model: FamilyConfig, folder: RunFolder) -> str:
    sizes = [f"model.{name}" for name in type(model).model_fields if name.endswith(SIZES)]
    if family_type(model.family).modality == "image":
        sizes += ["data.image_size", "data.memory_gb"]
    newest = folder.newest()
    kept = f"; the last checkpoint stays: {newest}" if newest else ""
    return (
        f"lower training.batch_size (now {config.batch_size}), raise training.micro_batches (now "
        f"{config.micro_batches}), or lower {', '.join(sizes)}{kept}"
    )

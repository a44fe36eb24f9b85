"""What follows when memory runs out: batches in more parts, or what to lower."""

import gc
import re
import sys

import torch
from tqdm import tqdm

from aigc_ops.core.errors import TrainingError
from aigc_ops.interfaces.model import FamilyConfig
from aigc_ops.models import modality_of
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.run_dir import RunFolder

# How CUDA, MPS, the CPU, oneDNN and C++ begin; all but CUDA raise plain RuntimeErrors.
EXHAUSTED = re.compile(
    r"out of memory|DefaultCPUAllocator: can't allocate memory|could not create a primitive"
    r"|could not create a memory object|std::bad_alloc",
    re.IGNORECASE,
)
ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+ ?\w+)", re.IGNORECASE)
FREE = re.compile(r"of which ([\d.]+ ?\w+) is free")
SIZES = ("width", "num_layers", "context_length")


def smaller_batches(
    error: RuntimeError | MemoryError,
    config: TrainingConfig,
    model: FamilyConfig,
    folder: RunFolder,
    *,
    may_split: bool,
) -> TrainingConfig:
    """Return a config with more micro-batches, for an error by which memory ran out.

    The next attempt goes on from the newest checkpoint, so a step that memory cut short, a part
    of it perhaps taken, leaves no trace. Raises TrainingError when nothing is left to split, and
    the error itself when it is of another kind.
    """
    problem = _exhausted(error)
    if problem is None:
        raise error
    # Python and NumPy hold the data, which smaller parts of a batch leave as it is.
    may_split &= config.halve_on_out_of_memory and not isinstance(error, MemoryError)
    num = _more_parts(config) if may_split else None
    if num is None:
        raise TrainingError(f"{problem}; {_advice(config, model, folder)}") from error
    tqdm.write(
        f"warning: {problem}; going on from the newest checkpoint with batches of "
        f"{config.batch_size} in {num} micro_batches instead of {config.micro_batches}",
        file=sys.stderr,
    )
    return config.model_copy(update={"micro_batches": num})


def free_memory() -> None:
    """Give back the tensors of a failed attempt, which its traceback held until now."""
    gc.collect()
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
    sizes += modality_of(model.family).training.memory_settings
    newest = folder.newest()
    kept = f"; the last checkpoint stays: {newest}" if newest else ""
    return (
        f"lower training.batch_size (now {config.batch_size}), raise training.micro_batches (now "
        f"{config.micro_batches}), or lower {', '.join(sizes)}{kept}"
    )

"""Out-of-memory errors: retry with more micro-batches, or name the settings to lower."""

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

# Messages of CUDA and MPS, the CPU allocator, oneDNN (twice) and C++. Only CUDA raises a type of
# its own, torch.OutOfMemoryError; the others are RuntimeErrors.
EXHAUSTED = re.compile(
    r"out of memory|DefaultCPUAllocator: can't allocate memory|could not create a primitive"
    r"|could not create a memory object|std::bad_alloc",
    re.IGNORECASE,
)
REQUESTED = re.compile(r"(?:tried|unable) to allocate ([\d.]+ ?\w+)", re.IGNORECASE)
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
    """Return a config with more micro-batches after an out-of-memory error.

    The caller retries from the newest checkpoint, because the failed step may have updated some
    parts already. Raises TrainingError when the batch cannot be split further, and the error
    itself when it has another cause.
    """
    problem = _exhausted(error)
    if problem is None:
        raise error
    # A MemoryError comes from Python or NumPy, which hold the data; micro-batches don't shrink it.
    may_split &= config.halve_on_out_of_memory and not isinstance(error, MemoryError)
    num = _more_micro_batches(config) if may_split else None
    if num is None:
        raise TrainingError(f"{problem}; {_advice(config, model, folder)}") from error
    tqdm.write(
        f"warning: {problem}; resuming from the newest checkpoint with {num} micro_batches "
        f"instead of {config.micro_batches} for a batch_size of {config.batch_size}",
        file=sys.stderr,
    )
    return config.model_copy(update={"micro_batches": num})


def free_memory() -> None:
    """Free the tensors of a failed attempt, which its traceback has kept alive."""
    # Exception, traceback and frames may form a cycle, which only a collection frees.
    gc.collect()
    torch.cuda.empty_cache()


def _exhausted(error: RuntimeError | MemoryError) -> str | None:
    """Return a message with the bytes requested and free, or None for an unrelated error."""
    text, typed = str(error), torch.OutOfMemoryError | MemoryError
    if not isinstance(error, typed) and not EXHAUSTED.search(text):
        return None
    requested, free = REQUESTED.search(text), FREE.search(text)
    details = [f"asked for {requested[1]}"] if requested else []
    details += [f"{free[1]} free"] if free else []
    return "memory ran out" + (f" ({', '.join(details)})" if details else "")


def _more_micro_batches(config: TrainingConfig) -> int | None:
    """Return the smallest divisor of the batch that at least doubles the micro-batches."""
    numbers = range(2 * config.micro_batches, config.batch_size + 1)
    return next((num for num in numbers if config.batch_size % num == 0), None)


def _advice(config: TrainingConfig, model: FamilyConfig, folder: RunFolder) -> str:
    sizes = [f"model.{name}" for name in type(model).model_fields if name.endswith(SIZES)]
    sizes += modality_of(model.family).training.memory_settings
    newest = folder.newest()
    resume_hint = f"; the last checkpoint is kept: {newest}" if newest else ""
    return (
        f"lower training.batch_size (now {config.batch_size}), raise training.micro_batches (now "
        f"{config.micro_batches}), or lower {', '.join(sizes)}{resume_hint}"
    )

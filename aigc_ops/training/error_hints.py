"""Errors of torch that a setting can remedy, translated into TrainingErrors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aigc_ops.core.errors import TrainingError


@contextmanager
def translate_torch_errors() -> Iterator[None]:
    """Raise a TrainingError for a torch error that a setting can remedy; pass others through."""
    # torch raises no types of its own for these cases, so they are recognised by their text.
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "batch norm needs at least two rows in each micro-batch; raise training.batch_size, "
            "or lower training.micro_batches"
        ) from error
    except AssertionError as error:
        # Code that Inductor generates asserts the sizes and strides it was compiled for.
        if "torch.ops." not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the compiled networks failed ({reason}); set --training.compile false"
        ) from error
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo/" in str(error):
            raise TrainingError(
                "another process of this run has failed, see its message; repeat the command to "
                "resume from the newest checkpoint"
            ) from error
        # Imported here, because torch._dynamo takes seconds that only a compiled run needs.
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the networks could not be compiled ({reason}); install what is missing (a CPU needs "
            "a C++ compiler such as g++, a GPU needs triton), or set --training.compile false"
        ) from error

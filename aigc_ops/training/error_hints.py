"""What torch raises in its own words, told in those of the settings."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aigc_ops.core.errors import TrainingError


@contextmanager
def explained() -> Iterator[None]:
    """Errors whose remedy is a setting become TrainingErrors; others pass through."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "batch norm cannot learn from one row at a time; raise training.batch_size, "
            "or lower training.micro_batches"
        ) from error
    except AssertionError as error:
        if "torch.ops." not in str(error):  # what compiled code finds otherwise than foreseen
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the compiled networks failed ({reason}); set --training.compile false"
        ) from error
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo/" in str(error):
            raise TrainingError(
                "another process of this run has ended, and says why; the same command goes on "
                "from the newest checkpoint"
            ) from error
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the networks could not be compiled ({reason}); install what is missing (a CPU needs "
            "a C++ compiler such as g++, a GPU needs triton), or set --training.compile false"
        ) from error

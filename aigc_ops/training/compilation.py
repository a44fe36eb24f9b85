"""The networks compiled, and what to do where they cannot be."""

from collections.abc import Iterator
from contextlib import contextmanager

from aigc_ops.errors import TrainingError
from aigc_ops.generative import Generative


def compile_networks(model: Generative) -> None:
    """Let torch.compile translate each network at its first use."""
    for part in model.parts().values():
        for network in list(part.children()) or [part]:
            network.compile()


@contextmanager
def compiler_faults() -> Iterator[None]:
    """Tell in plain words that the compiler failed; other errors pass through."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the networks could not be compiled ({reason}); install what is missing (a CPU needs "
            "a C++ compiler such as g++, a GPU needs triton), or set --training.compile false"
        ) from error

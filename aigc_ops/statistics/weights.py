"""Weight files of extractors: verified by SHA-256 and loaded without running code."""

import hashlib
import io
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from aigc_ops.core.errors import EvaluationError


def plain_tensors(path: str, content: bytes) -> dict[str, Tensor]:
    """Return the tensors by name of an untrusted file; code in it is not executed."""
    # From bytes, so that what was hashed is what is loaded even if the file changes meanwhile.
    try:
        if path.endswith(".safetensors"):
            state: Any = safetensors.torch.load(content)
        else:  # weights_only: a pickle may otherwise run any code
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # pickle, zip and torch raise errors of many types
        raise EvaluationError(
            f"{path}: not a file of plain tensors ({type(error).__name__}); save the network's "
            "state_dict"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise EvaluationError(
            f"{path}: not a dict of tensors by name; save the network's state_dict"
        )
    return dict(state)


def read_file(path: str | Path, advice: str) -> tuple[str, bytes]:
    """Return SHA-256 and bytes of a file; raise EvaluationError with the advice if unreadable."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"{path}: weights cannot be read ({error.strerror}); {advice}"
        ) from error
    return hashlib.sha256(content).hexdigest(), content


def checked_file(path: Path, expected: str, advice: str) -> io.BytesIO:
    """Return a file's bytes; raise EvaluationError if their SHA-256 is not the expected one."""
    digest, content = read_file(path, advice)
    if digest != expected:
        raise EvaluationError(
            f"{path}: SHA-256 is {digest[:12]}, expected {expected[:12]}; {advice}"
        )
    return io.BytesIO(content)

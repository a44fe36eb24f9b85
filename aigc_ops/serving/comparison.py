"""Asks a running service for the golden samples and compares what it answers."""

import http.client
import io
import json
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from aigc_ops.artifacts import ModelVersion
from aigc_ops.errors import PackagingError
from aigc_ops.sample_request import Message, SampleRequest
from aigc_ops.sampling import Samples
from aigc_ops.serving.process import HOST, ServerProcess

ANSWER_TIMEOUT_SECONDS = 300

Golden = tuple[list[SampleRequest], Samples]
"""Requests and what they drew when the model was registered."""


def compare_golden(
    server: ServerProcess, version: ModelVersion, golden: Golden, tolerance_levels: int
) -> int:
    """Largest difference, of 255 levels, between served and golden samples.

    Texts must be equal. Raises PackagingError naming the first sample that differs.
    """
    connection = http.client.HTTPConnection(HOST, server.port, timeout=ANSWER_TIMEOUT_SECONDS)
    levels = 0
    try:
        for request, sample in zip(*golden, strict=True):
            apart = _levels_apart(_ask(connection, request, version), sample)
            if apart > tolerance_levels:
                raise PackagingError(
                    f"{version.uri}: the service's sample of {request} is {apart} levels from "
                    f"its golden sample, allowed are {tolerance_levels}"
                )
            levels = max(levels, apart)
    except (OSError, http.client.HTTPException) as error:
        raise PackagingError(server.explain(f"the service stopped answering ({error})")) from error
    finally:
        connection.close()
    return levels


def _ask(
    connection: http.client.HTTPConnection, request: SampleRequest, version: ModelVersion
) -> bytes:
    """The body of the answer to one request."""
    call: dict[str, Any] = {
        "seed": request.seed,
        "label": request.label,
        "prompt": request.prompt,
        "controls": dict(request.controls),
        "stop": list(request.stop),
    }
    if request.history:
        turns = [*request.history, Message("user", call.pop("prompt"))]
        call["messages"] = [{"role": role, "content": text} for role, text in turns]
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/generate", json.dumps(call).encode(), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise PackagingError(
            f"{version.uri}: the service answered {request} with {response.status}: {body!r}"
        )
    served = response.headers["X-AIGC-Manifest"]
    if served != version.manifest_digest:
        raise PackagingError(f"{version.uri}: the service serves another model ({served})")
    return body


def _levels_apart(answer: bytes, golden: Tensor | str) -> int:
    """Largest difference of two images; 0 or 255 for equal or other texts and sizes."""
    if isinstance(golden, str):
        return 0 if answer == golden.encode() else 255
    with Image.open(io.BytesIO(answer), formats=["PNG"]) as picture:
        pixels = np.array(picture, dtype=np.int16)
    expected = golden.permute(1, 2, 0).numpy().astype(np.int16)
    if expected.shape[-1] == 1:
        expected = expected[..., 0]
    if pixels.shape != expected.shape:
        return 255
    return int(np.abs(pixels - expected).max())

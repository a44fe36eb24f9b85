"""Smoke test of a running service: its samples must equal the version's golden samples."""

import http.client
import json
from typing import Any

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import PackagingError
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.serving.runtime.process import HOST, ServerProcess

ANSWER_TIMEOUT_SECONDS = 300

Golden = tuple[list[SampleRequest], Any]
"""Requests, and the samples generated from them when the model was registered."""


def compare_golden(
    server: ServerProcess,
    version: ModelVersion,
    modality: Modality[Any],
    golden: Golden,
    tolerance_levels: int,
) -> int:
    """Return the largest difference between served and golden samples, in levels of 255.

    Texts must be equal. Raises PackagingError naming the first sample that differs more.
    """
    connection = http.client.HTTPConnection(HOST, server.port, timeout=ANSWER_TIMEOUT_SECONDS)
    levels = 0
    try:
        for request, sample in zip(*golden, strict=True):
            content = _generate(connection, modality, request, version)
            difference = modality.samples.difference(content, sample)
            if difference > tolerance_levels:
                raise PackagingError(
                    f"{version.uri}: the service's sample of {request} is {difference} levels "
                    f"from its golden sample, allowed are {tolerance_levels}"
                )
            levels = max(levels, difference)
    except (OSError, http.client.HTTPException) as error:
        raise PackagingError(server.explain(f"the service stopped answering ({error})")) from error
    finally:
        connection.close()
    return levels


def _generate(
    connection: http.client.HTTPConnection,
    modality: Modality[Any],
    request: SampleRequest,
    version: ModelVersion,
) -> bytes:
    """Return the body of the service's answer to one request."""
    call = {
        "seed": request.seed,
        "controls": dict(request.controls),
        **modality.requests.to_call(request),
    }
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/generate", json.dumps(call).encode(), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise PackagingError(
            f"{version.uri}: the service answered {request} with {response.status}: {body!r}"
        )
    # Two versions can give equal samples within the tolerance, so the digest is compared too.
    manifest = response.headers["X-AIGC-Manifest"]
    if manifest != version.manifest_digest:
        raise PackagingError(f"{version.uri}: the service serves another model ({manifest})")
    return body

"""Asks a configured Prefect server over HTTP, so that telling needs no Prefect import."""

import base64
import json
import os
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT_SECONDS = 3


def address() -> str | None:
    """Address of the API that PREFECT_API_URL names; None when each run starts its own server."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    return url or None


def ask(path: str) -> Any:
    """What the server answers at a path below its API, None for what it does not hold.

    Raises OSError or ValueError when it does not answer, refuses, or answers no JSON.
    """
    url = f"{address()}/{path}"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"PREFECT_API_URL is {address()!r}; expected http:// or https://")
    request = Request(url, headers=_credentials())  # noqa: S310 - checked above
    try:
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except HTTPError as error:
        if error.code == 404:
            return None
        raise


def _credentials() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    return {}

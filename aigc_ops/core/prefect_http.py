"""HTTP requests to a configured Prefect server, without importing Prefect."""

import base64
import json
import os
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

# `trace` and `doctor` report a server that does not answer, so they must not wait for long.
TIMEOUT_SECONDS = 3


def api_url() -> str | None:
    """Return PREFECT_API_URL; None if it is not set, so that each run starts its own server."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    return url or None


def get_json(path: str) -> Any:
    """Return the JSON at a path below the API; None for status 404.

    Raises OSError or ValueError if the server does not answer, refuses, or sends no JSON.
    """
    url = f"{api_url()}/{path}"
    # urlopen would also open file:// and ftp://.
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"PREFECT_API_URL is {api_url()!r}; expected http:// or https://")
    request = Request(url, headers=_credentials())  # noqa: S310 - checked above
    try:
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except HTTPError as error:
        if error.code == 404:
            return None
        raise


def _credentials() -> dict[str, str]:
    # As Prefect's own client: a key for Prefect Cloud, USER:PASSWORD for a self-hosted server.
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    return {}

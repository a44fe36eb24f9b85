"""Description of the service: an OpenAPI document and a Swagger page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_ops.interfaces.request import Control

INDEX_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>aigc-ops service</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui"})</script>
</body>
</html>
"""
"""Swagger page. BentoML's own page loads a tracker from Google; this one loads local files only."""


def openapi(
    call_schema: dict[str, Any], *, title: str, version: str, media_type: str
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the service, with the JSON schema of a call."""
    # 3.1, because pydantic writes JSON Schema 2020-12, which OpenAPI 3.0 does not accept.
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": {
            "/generate": {"post": _generate(call_schema, media_type)},
            # Restart the process if /livez fails; send no calls while /readyz fails.
            "/livez": {"get": _probe("The process answers.")},
            "/readyz": {"get": _probe("The model is loaded.")},
            "/metrics": {"get": _probe("Counters and durations for Prometheus.")},
        },
    }


def controls_schema(controls: "Mapping[str, Control]") -> dict[str, Any]:
    """Return the JSON schema of `controls`, with the served model's controls only."""
    properties = {
        name: {
            "type": "integer" if control.is_integer else "number",
            "minimum": control.low,
            "maximum": control.high,
            "description": control.description,
        }
        for name, control in controls.items()
    }
    return {"properties": properties, "additionalProperties": False}


def _generate(call_schema: dict[str, Any], media_type: str) -> dict[str, Any]:
    # The key of a response's content is its media type without parameters such as the charset.
    kind = media_type.partition(";")[0]
    sample: dict[str, Any] = {"type": "string"}
    if not kind.startswith("text/"):
        sample["format"] = "binary"
    return {
        "operationId": "generate",
        "summary": "Generate samples: a single one as its media type, several as JSON.",
        "requestBody": {"content": {"application/json": {"schema": call_schema}}},
        "responses": {
            "200": {
                "description": "The samples; headers: model, version, seed, label, controls.",
                "content": {
                    kind: {"schema": sample},
                    "application/json": {"schema": {"type": "object"}},
                },
            },
            "400": _error("The body is not JSON."),
            "408": _error("The body took too long to arrive."),
            "413": _error("The body is too long."),
            "422": _error("A value has the wrong type, is out of range or unknown."),
            "429": _error("Too many calls are waiting; try again later."),
        },
    }


def _error(description: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"error": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _probe(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary}}}

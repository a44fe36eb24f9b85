"""How the service describes itself: OpenAPI for programs, one page for people."""

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
"""BentoML's own page loads a tracker from Google; this one asks this server alone."""


def openapi(
    call_schema: dict[str, Any], *, title: str, version: str, media_type: str
) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the service around the JSON schema of a call."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": {
            "/generate": {"post": _generate(call_schema, media_type)},
            "/livez": {"get": _probe("The process answers.")},
            "/readyz": {"get": _probe("The model is loaded.")},
            "/metrics": {"get": _probe("Counters and durations for Prometheus.")},
        },
    }


def of_controls(controls: "Mapping[str, Control]") -> dict[str, Any]:
    """The JSON schema of a call's controls: those of the served model and no others."""
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
    kind = media_type.partition(";")[0]
    one: dict[str, Any] = {"type": "string"}
    if not kind.startswith("text/"):
        one["format"] = "binary"
    return {
        "operationId": "generate",
        "summary": "Generate samples: one as it is, several as JSON.",
        "requestBody": {"content": {"application/json": {"schema": call_schema}}},
        "responses": {
            "200": {
                "description": "The samples; headers tell model, version, seed, label, controls.",
                "content": {
                    kind: {"schema": one},
                    "application/json": {"schema": {"type": "object"}},
                },
            },
            "400": _error("The body is not JSON."),
            "408": _error("The body took too long to arrive."),
            "413": _error("The body is too long."),
            "422": _error("A value is of the wrong type, out of range or unknown."),
            "429": _error("Too many calls are waiting; try again later."),
        },
    }


def _error(description: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"error": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _probe(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary}}}

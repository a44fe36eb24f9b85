"""The BentoML service: `bentoml serve` starts it from a Bento or from a model folder."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import bentoml

from aigc_ops.core.errors import PackagingError
from aigc_ops.core.escaping import printable
from aigc_ops.serving.api.guard import Door
from aigc_ops.serving.api.native import Served, create_app
from aigc_ops.serving.env_vars import MODEL_ALIAS, MODEL_VARIABLE, NAME_VARIABLE, VERSION_VARIABLE

T = TypeVar("T")

app = create_app()


class GuardedService(bentoml.Service[T]):
    """A BentoML service whose requests come through the door, before any middleware."""

    def to_asgi(self, is_main: bool = True) -> Any:
        return Door(super().to_asgi(is_main))


@bentoml.service(
    name="aigc-ops",
    workers=1,
    traffic={"timeout": 300, "max_concurrency": 32},
    service_class=GuardedService,
)
@bentoml.asgi_app(app, path="/", name="generate")
class Generation:
    """Draws samples of one registered model."""

    def __init__(self) -> None:
        app.state.served = _load()
        for handler in logging.getLogger().handlers:
            handler.addFilter(_escape)
        # BentoML has all servers of a home keep their figures in one folder, which each empties
        # when it starts. No figure exists before the first request.
        self._figures = tempfile.TemporaryDirectory(prefix="aigc-ops-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._figures.name

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def remove_figures(self) -> None:
        self._figures.cleanup()


def _escape(record: logging.LogRecord) -> bool:
    """Keep every record, with the control characters in its message written out."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _load() -> Served:
    # Here and not above: only the worker loads a model, BentoML's other processes read
    # this module as well.
    from aigc_ops.serving.runtime.model_runner import load_served

    try:
        stored = bentoml.models.get(MODEL_ALIAS)
    except bentoml.exceptions.NotFound:
        folder = _folder()
        return load_served(
            folder,
            name=os.environ.get(NAME_VARIABLE, folder.name),
            version=os.environ.get(VERSION_VARIABLE, "unregistered"),
            expected=None,
        )
    identity = stored.info.metadata
    return load_served(
        Path(stored.path_of("model")),
        name=str(identity["name"]),
        version=str(identity["version"]),
        expected=str(identity["manifest_digest"]),
    )


def _folder() -> Path:
    folder = os.environ.get(MODEL_VARIABLE)
    if not folder:
        raise PackagingError(
            "this Bento holds no model; build it with `aigc-ops package MODEL`, or set "
            f"{MODEL_VARIABLE} to a model folder"
        )
    return Path(folder).absolute()

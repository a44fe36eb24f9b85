"""BentoML service, started by `bentoml serve` from a Bento or a model folder."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import bentoml

from aigc_ops.core.errors import PackagingError
from aigc_ops.core.escaping import printable
from aigc_ops.serving.api.guard import RequestGuard
from aigc_ops.serving.api.native import Served, create_app
from aigc_ops.serving.env_vars import MODEL_ALIAS, MODEL_VARIABLE, NAME_VARIABLE, VERSION_VARIABLE

T = TypeVar("T")

app = create_app()


class GuardedService(bentoml.Service[T]):
    """A BentoML service behind the request guard, which runs before BentoML's own middleware."""

    def to_asgi(self, is_main: bool = True) -> Any:
        return RequestGuard(super().to_asgi(is_main))


# One worker, since each loads the model. 32 calls may wait for it; further ones get status 429.
@bentoml.service(
    name="aigc-ops",
    workers=1,
    traffic={"timeout": 300, "max_concurrency": 32},
    service_class=GuardedService,
)
@bentoml.asgi_app(app, path="/", name="generate")
class Generation:
    """Service that generates samples of one model."""

    def __init__(self) -> None:
        app.state.served = _load()
        for handler in logging.getLogger().handlers:
            handler.addFilter(_escape)
        # All servers with the same BENTOML_HOME share one folder of Prometheus metrics, and each
        # server empties it when it starts. So each gets a folder of its own; that is early
        # enough, since the first request creates the first metric.
        self._metrics_dir = tempfile.TemporaryDirectory(prefix="aigc-ops-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._metrics_dir.name

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def remove_metrics(self) -> None:
        self._metrics_dir.cleanup()


def _escape(record: logging.LogRecord) -> bool:
    """Escape control characters in a log record's message; keeps every record."""
    # Paths and headers are logged, and a client could forge lines or terminal sequences in them.
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _load() -> Served:
    # Imported here, because BentoML's other processes import this module without a model.
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

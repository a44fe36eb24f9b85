"""Builds one Bento as told on standard input; run as a process of its own.

BentoML changes folder, import path and logging of the process that builds, which a
pipeline's process must not suffer. That process needs no BentoML either.
"""

import importlib.metadata
import shutil
import sys
from pathlib import Path

from aigc_ops.core.artifacts import Noun
from aigc_ops.core.errors import PackagingError


class Order(Noun):
    """What to build: a model folder into the model store, and a Bento that refers to it."""

    context: str
    """Folder with bentofile.yaml and the files that it includes."""
    name: str
    bento_version: str
    model_version: str
    model_source: str
    metadata: dict[str, str]
    labels: dict[str, str]


def build(order: Order) -> None:
    """Fill BentoML's stores (`BENTOML_HOME`) with the model and the Bento of an order."""
    import bentoml

    model_tag = f"{order.name}:{order.model_version}"
    with bentoml.models.create(
        model_tag, labels=order.labels, metadata=dict(order.metadata)
    ) as stored:
        shutil.copytree(order.model_source, stored.path_of("model"))
    bentoml.bentos.build_bentofile(
        str(Path(order.context) / "bentofile.yaml"),
        name=order.name,
        version=order.bento_version,
        labels=order.labels,
        build_ctx=order.context,
    )


def require_uv() -> None:
    """Raise PackagingError unless uv is installed: BentoML would fetch it unasked."""
    try:
        importlib.metadata.version("uv")
    except importlib.metadata.PackageNotFoundError:
        if shutil.which("uv") is None:
            raise PackagingError(
                "BentoML builds with uv, which is not installed; "
                "install it with `pip install -c constraints.txt uv`"
            ) from None


if __name__ == "__main__":
    build(Order.model_validate_json(sys.stdin.read()))

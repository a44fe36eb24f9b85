"""Build a Bento from a BuildSpec (JSON) on standard input; run as a process of its own."""

# Building changes the working folder, the import path and the logging of its process, which the
# pipeline's process must keep. So the pipeline also runs without importing BentoML.

import importlib.metadata
import shutil
import sys
from pathlib import Path

from aigc_ops.core.artifacts import Record
from aigc_ops.core.errors import PackagingError


class BuildSpec(Record):
    """A Bento to build: a model for BentoML's model store, and a Bento that refers to it."""

    context: str
    """Folder with bentofile.yaml and the files that it includes."""
    # The versions are those of BentoML's tags, `name:version`.
    name: str
    bento_version: str
    model_version: str
    model_source: str
    metadata: dict[str, str]
    labels: dict[str, str]


def build(spec: BuildSpec) -> None:
    """Write the model and the Bento of a spec into BentoML's stores (`BENTOML_HOME`)."""
    import bentoml

    # The model first: the Bento's `models` entry is resolved when the Bento is built.
    model_tag = f"{spec.name}:{spec.model_version}"
    with bentoml.models.create(
        model_tag, labels=spec.labels, metadata=dict(spec.metadata)
    ) as stored:
        shutil.copytree(spec.model_source, stored.path_of("model"))
    bentoml.bentos.build_bentofile(
        str(Path(spec.context) / "bentofile.yaml"),
        name=spec.name,
        version=spec.bento_version,
        labels=spec.labels,
        build_ctx=spec.context,
    )


def require_uv() -> None:
    """Raise PackagingError unless uv is installed."""
    # Without uv, BentoML would download it.
    try:
        importlib.metadata.version("uv")
    except importlib.metadata.PackageNotFoundError:
        if shutil.which("uv") is None:
            raise PackagingError(
                "BentoML builds with uv, which is not installed; "
                "install it with `pip install -c constraints.txt uv`"
            ) from None


if __name__ == "__main__":
    build(BuildSpec.model_validate_json(sys.stdin.read()))

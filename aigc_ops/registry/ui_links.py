"""A version's model card, and links to its pages in MLflow's UI."""

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.registry.client import address, connect, faults, is_http
from aigc_ops.registry.evidence import PAGE, packet_folder

LOCAL_UI = "http://127.0.0.1:5000"
"""Default address of `mlflow ui`, for stores without a server of their own."""


def card(version: ModelVersion) -> str:
    """Return the version's model card in Markdown."""
    client = connect()
    with faults(f"reading {version.uri}"):
        entity = client.get_model_version(version.name, str(version.version))
    return entity.description or ""


def links(version: ModelVersion) -> dict[str, str]:
    """Return links to the version, its run and its report in MLflow's UI."""
    client = connect()
    with faults(f"reading the run of {version.uri}"):
        experiment = client.get_run(version.run_id).info.experiment_id
    run = f"{_base()}/#/experiments/{experiment}/runs/{version.run_id}"
    return {
        "model-version": f"{_base()}/#/models/{version.name}/versions/{version.version}",
        "training-run": run,
        "evaluation": f"{run}/artifacts/evaluation/report.html",
    }


def packet_link(version: ModelVersion, packet_digest: str) -> str:
    """Return the link to a review packet among the artifacts of the version's run."""
    run = links(version)["training-run"]
    return f"{run}/artifacts/{packet_folder(packet_digest)}/{PAGE}"


def _base() -> str:
    return address().rstrip("/") if is_http(address()) else LOCAL_UI

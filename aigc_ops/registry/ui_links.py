"""What people open of a version: its card, and its pages in MLflow's UI."""

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.registry.client import address, connect, faults, is_http
from aigc_ops.registry.evidence import PAGE, packet_place

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens over a store that has no server of its own."""


def card(version: ModelVersion) -> str:
    """The version's model card, Markdown."""
    client = connect()
    with faults(f"reading {version.uri}"):
        entity = client.get_model_version(version.name, str(version.version))
    return entity.description or ""


def links(version: ModelVersion) -> dict[str, str]:
    """Web addresses of the version and its run, on the server or where `mlflow ui` listens."""
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
    """Web address of a version's review packet among its run's artifacts."""
    run = links(version)["training-run"]
    return f"{run}/artifacts/{packet_place(packet_digest)}/{PAGE}"


def _base() -> str:
    return address().rstrip("/") if is_http(address()) else LOCAL_UI

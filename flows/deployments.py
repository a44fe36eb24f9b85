"""The deployments in the Prefect UI: a pipeline for each family, review, rollback and guard.

`python -m flows` serves them all from this machine until it is stopped. `prefect deploy --all`
deploys the same to a work pool, from the prefect.yaml that `python -m flows --write` generates.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, serve
from prefect.runtime import flow_run
from prefect.schedules import Cron, Schedule

from aigc_ops.core.artifacts import RunResult
from aigc_ops.core.errors import AigcOpsError, ConfigError
from aigc_ops.core.project import project_root
from aigc_ops.models import family_names
from aigc_ops.pipeline.run_config import RunConfig, load_config, read_yaml, run_config_type
from flows.notifications import send_to
from flows.pipeline import run_if_changed
from flows.promotion import guard, review, rollback

# Inactive: a schedule starts only after somebody activates it in the UI.
NIGHTLY = Cron("0 3 * * *", timezone="UTC", active=False)
HOURLY = Cron("0 * * * *", timezone="UTC", active=False)
PREFECT_YAML = "prefect.yaml"
# A worker finds the file in a checkout, and the module where aigc-ops is installed.
IN_CHECKOUT = Path("flows/deployments.py")


def pipeline_of(family: str) -> Flow[Any, RunResult]:
    """Return the chain as a flow with a typed form for one family.

    The form's defaults are those of the family's config in `configs/`, if there is one.
    """
    config_type = run_config_type(family)
    default = _ready_made(family)

    def pipeline(config: RunConfig[Any], force: bool = False) -> RunResult:
        return run_if_changed(config, force=force)

    # Prefect derives the form from the function's signature, so each family gets a function of
    # its own. The flow's name stays equal across releases: it identifies runs and deployments.
    pipeline.__annotations__["config"] = config_type
    pipeline.__defaults__ = (default, False) if default else (False,)
    pipeline.__name__ = pipeline.__qualname__ = family
    pipeline.__doc__ = f"""Validate, train, evaluate, register, promote and package a {family}.

    Args:
        config: Data, model, training, evaluation, promotion and packaging of this run.
        force: Run every stage again, even if nothing has changed.
    """
    return Flow(
        fn=pipeline,
        name=f"aigc-ops-{family}",
        flow_run_name=_flow_run_name,
        persist_result=False,
        validate_parameters=True,
    )


def _ready_made(family: str) -> RunConfig[Any] | None:
    configs = (project_root() or Path()) / "configs"
    for path in sorted(configs.glob("*.yaml")):
        try:
            model = read_yaml(path).get("model")
            # smoke.yaml is for tests, with too few steps to be useful.
            if isinstance(model, dict) and model.get("family") == family and path.stem != "smoke":
                return load_config(path)
        # One invalid file, perhaps half-written, must not prevent the other deployments.
        except ConfigError as error:
            warnings.warn(
                f"an invalid config is not used for the form's defaults: {error}", stacklevel=2
            )
    return None


def _flow_run_name() -> str:
    """Return model, family and data version as the name of a run."""
    from aigc_ops.pipeline.chain import open_data, run_name

    config = flow_run.parameters["config"]
    try:
        return run_name(config, open_data(config))
    # The chain raises the same error later, where it is in the run's log with what to do next.
    except AigcOpsError:
        return f"{config.name}-{config.model.family}"


def _pipelines() -> dict[str, Flow[Any, Any]]:
    """Return the flow of each family; warns of a family that cannot be imported."""
    flows = {}
    for family in family_names():
        try:
            flows[family] = pipeline_of(family)
        # A project's broken family, or an extra that is not installed, must not hide the others.
        except ConfigError as error:
            warnings.warn(f"the family {family} is not offered: {error}", stacklevel=2)
    return flows


PIPELINES = _pipelines()
FLOWS: dict[str, Flow[Any, Any]] = {
    **PIPELINES,
    "review": review,
    "rollback": rollback,
    "guard": guard,
}
globals().update(FLOWS)  # where Prefect's workers find them by entrypoint


@dataclass(frozen=True)
class DeploymentSpec:
    """A deployment of a flow of this module: its name and its schedule."""

    flow: str
    deployment: str
    schedule: Schedule | None = None

    @property
    def description(self) -> str:
        """The flow's description without its arguments, which the form describes."""
        return str(FLOWS[self.flow].description).partition("\n\nArgs:")[0]

    def to_yaml_entry(self, entrypoint: str) -> dict[str, Any]:
        """Return the entry of this deployment in prefect.yaml."""
        return {
            "name": self.deployment,
            "entrypoint": entrypoint.format(self.flow),
            "description": self.description,
            "tags": ["aigc-ops", self.flow],
            "work_pool": {"name": "aigc-ops"},
            "schedules": [{"cron": self.schedule.cron, "timezone": "UTC", "active": False}]
            if self.schedule
            else [],
            # A slow run may still be active when the schedule starts the next.
            "concurrency_limit": 1 if self.schedule else None,
        }

    def to_deployment(self) -> Any:
        """Return this deployment for `prefect.serve`."""
        return FLOWS[self.flow].to_deployment(
            self.deployment,
            schedule=self.schedule,
            tags=["aigc-ops", self.flow],
            description=self.description,
        )


def deployment_specs() -> list[DeploymentSpec]:
    """Return all deployments: a pipeline for each family, review, rollback and guard."""
    return [
        *(DeploymentSpec(family, "pipeline", NIGHTLY) for family in PIPELINES),
        DeploymentSpec("review", "review"),
        DeploymentSpec("rollback", "rollback"),
        DeploymentSpec("guard", "guard", HOURLY),
    ]


def prefect_yaml_of(root: Path) -> str:
    """Return the text of prefect.yaml for a project, or for a checkout of aigc-ops."""
    is_checkout = (root / IN_CHECKOUT).is_file()
    entrypoint = f"{IN_CHECKOUT}:{{}}" if is_checkout else "flows.deployments.{}"
    entries = [spec.to_yaml_entry(entrypoint) for spec in deployment_specs()]
    content = {"name": "aigc-ops" if is_checkout else root.name, "deployments": entries}
    text = yaml.safe_dump(content, sort_keys=False)
    return f"# Generated by: python -m flows --write\n{text}"


def main() -> None:
    """Serve every deployment, write prefect.yaml, or set the web hook for notifications."""
    parser = argparse.ArgumentParser(prog="python -m flows", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write prefect.yaml and stop")
    parser.add_argument(
        "--notify", metavar="URL", help="make the server post events to this web hook, and stop"
    )
    arguments = parser.parse_args()
    if arguments.notify:
        send_to(arguments.notify)
        return
    if arguments.write:
        root = project_root() or Path.cwd()
        (root / PREFECT_YAML).write_text(prefect_yaml_of(root), "utf-8")
        return
    serve(*(spec.to_deployment() for spec in deployment_specs()))

"""What the Prefect UI offers: a pipeline for each family, reviews, rollbacks and the guard.

`python -m flows` serves them all from this machine until it is stopped; `prefect deploy
--all` offers the same through a work pool (prefect.yaml, which `python -m flows --write`
generates).
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
from aigc_ops.models import family_names
from aigc_ops.pipeline.run_config import RunConfig, load_config, read_yaml, run_config_type
from flows.notifications import send_to
from flows.pipeline import run_if_changed
from flows.promotion import guard, review, rollback

CONFIGS = Path("configs")
NIGHTLY = Cron("0 3 * * *", timezone="UTC", active=False)
HOURLY = Cron("0 * * * *", timezone="UTC", active=False)
PREFECT_YAML = Path("prefect.yaml")


def pipeline_of(family: str) -> Flow[Any, RunResult]:
    """The chain as a flow whose one parameter is the family's typed form.

    The form starts from the family's ready-made config, if `configs/` has one.
    """
    config_type = run_config_type(family)
    default = _ready_made(family)

    def pipeline(config: RunConfig[Any], force: bool = False) -> RunResult:
        return run_if_changed(config, force=force)

    pipeline.__annotations__["config"] = config_type
    pipeline.__defaults__ = (default, False) if default else (False,)
    pipeline.__name__ = pipeline.__qualname__ = family
    pipeline.__doc__ = f"""Validate, train, evaluate, register, promote and package a {family}.

    Args:
        config: Data, networks, training and judgement of this run.
        force: Run every stage again, also where nothing has changed.
    """
    return Flow(
        fn=pipeline,
        name=f"aigc-ops-{family}",
        flow_run_name=_flow_run_name,
        persist_result=False,
        validate_parameters=True,
    )


def _ready_made(family: str) -> RunConfig[Any] | None:
    for path in sorted(CONFIGS.glob("*.yaml")):
        try:
            model = read_yaml(path).get("model")
            if isinstance(model, dict) and model.get("family") == family and path.stem != "smoke":
                return load_config(path)
        except ConfigError as error:  # half-written: the others are none the worse
            warnings.warn(f"no form starts from a config at fault: {error}", stacklevel=2)
    return None


def _flow_run_name() -> str:
    """Model, family and data version, so that runs can be told apart at a glance."""
    from aigc_ops.pipeline.chain import open_data, run_name

    config = flow_run.parameters["config"]
    try:
        return run_name(config, open_data(config))
    except AigcOpsError:  # the chain meets the same fault, and its run is the one to fail
        return f"{config.name}-{config.model.family}"


FLOWS: dict[str, Flow[Any, Any]] = {
    **{family: pipeline_of(family) for family in family_names()},
    "review": review,
    "rollback": rollback,
    "guard": guard,
}
globals().update(FLOWS)  # where Prefect's workers find them by entrypoint


@dataclass(frozen=True)
class Offer:
    """A deployment: which flow of this module, under which name, when by itself."""

    flow: str
    deployment: str
    schedule: Schedule | None = None

    @property
    def description(self) -> str:
        """The flow's own, without its arguments, of which the form tells."""
        return str(FLOWS[self.flow].description).partition("\n\nArgs:")[0]

    def described(self) -> dict[str, Any]:
        """Its part of prefect.yaml."""
        return {
            "name": self.deployment,
            "entrypoint": f"flows/deployments.py:{self.flow}",
            "description": self.description,
            "tags": ["aigc-ops", self.flow],
            "work_pool": {"name": "aigc-ops"},
            "schedules": [{"cron": self.schedule.cron, "timezone": "UTC", "active": False}]
            if self.schedule
            else [],
            "concurrency_limit": 1 if self.schedule else None,
        }

    def served(self) -> Any:
        """The same for `prefect.serve`."""
        return FLOWS[self.flow].to_deployment(
            self.deployment,
            schedule=self.schedule,
            tags=["aigc-ops", self.flow],
            description=self.description,
        )


def offers() -> list[Offer]:
    """A pipeline for each family, what people decide, and the guard; schedules are paused."""
    return [
        *(Offer(family, "pipeline", NIGHTLY) for family in family_names()),
        Offer("review", "review"),
        Offer("rollback", "rollback"),
        Offer("guard", "guard", HOURLY),
    ]


def entrypoints() -> dict[str, Any]:
    """The content of prefect.yaml."""
    return {"name": "aigc-ops", "deployments": [offer.described() for offer in offers()]}


def main() -> None:
    """Serve every deployment, write prefect.yaml, or say where messages go."""
    parser = argparse.ArgumentParser(prog="python -m flows", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write prefect.yaml and stop")
    parser.add_argument(
        "--notify", metavar="URL", help="have the server post messages to this web hook, and stop"
    )
    arguments = parser.parse_args()
    if arguments.notify:
        send_to(arguments.notify)
        return
    if arguments.write:
        text = "# Generated by: python -m flows --write\n"
        PREFECT_YAML.write_text(text + yaml.safe_dump(entrypoints(), sort_keys=False))
        return
    serve(*(offer.served() for offer in offers()))

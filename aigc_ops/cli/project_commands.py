"""The command that creates a project."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def init_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Create a project and say what to do next."""
    from aigc_ops.operations.new_project import create_project
    from flows.deployments import prefect_yaml_of

    folder = Path(arguments.folder)
    prefect_yaml = prefect_yaml_of(folder.absolute())
    files = create_project(folder, sample=arguments.sample, prefect_yaml=prefect_yaml)
    next_steps = [f"cd {shlex.quote(str(folder))}"]
    if arguments.sample:
        next_steps += ["aigc-ops data pull data", "aigc-ops run configs/mnist-gan.yaml"]
    else:
        next_steps += [
            "# put images into data/images, then",
            "aigc-ops data show data/images",
            "aigc-ops run configs/images.yaml",
        ]
    lines = [f"created {folder} with {len(files)} files; README.md explains them", "next:"]
    answer = {"project": str(folder.absolute()), "files": files, "next": next_steps}
    return answer, [*lines, *(f"  {line}" for line in next_steps)]


COMMANDS = {"init": init_command}

"""Build hook of hatchling: files outside the packages that the wheel contains."""

import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = {
    "bentofile.yaml": "aigc_ops/serving/bento/bentofile.yaml",
    "configs": "aigc_ops/operations/sample/configs",
    "data.dvc": "aigc_ops/operations/sample/data.dvc",
    "dvc-remote": "aigc_ops/operations/sample/dvc-remote",
}
"""Path in the wheel by path in the checkout."""
COMMIT = "aigc_ops/commit.txt"


class WheelFiles(BuildHookInterface[Any]):
    """Add the files that packaging and `aigc-ops init` need, and the commit of the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable install finds them in the checkout.
        if version != "standard":
            return
        root = Path(self.root)
        build_data["force_include"] |= {str(root / name): path for name, path in FILES.items()}
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        if described.returncode == 0:
            commit = Path(mkdtemp()) / "commit.txt"
            commit.write_text(described.stdout, "utf-8")
            build_data["force_include"][str(commit)] = COMMIT

"""The lock against the advisories of known vulnerabilities."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ACCEPTED = {
    # diskcache unpickles values of DVC's site cache, which lies in a folder of mode 0700 that is
    # checked before each use (aigc_ops/core/private_folders.py).
    "CVE-2025-69872",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_locked_package_has_a_known_vulnerability(tmp_path: Path) -> None:
    # In an environment of its own: pip-audit's packages are not part of the lock.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "pip-audit"], check=True)
    lock = ["--requirement", ROOT / "constraints.txt", "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [python, "-m", "pip_audit", *lock, "--format", "json"], capture_output=True, text=True
    )
    packages = json.loads(done.stdout)["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        pytest.skip(f"no advisory database is reachable: {packages[0]['skip_reason']}")
    assert len(audited) == len(packages), [p["name"] for p in packages if "skip_reason" in p]
    found = {
        package["name"]: [each["id"] for each in package["vulns"]]
        for package in audited
        if not all({each["id"], *each["aliases"]} & ACCEPTED for each in package["vulns"])
    }
    assert not found

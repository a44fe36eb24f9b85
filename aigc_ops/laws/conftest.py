"""Cases of the selected families for the tests of this folder, and the tests' environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aigc_ops.laws import cases
from aigc_ops.laws.plugin import selection

PARAMETERS = {
    "case": cases.every_case,
    "first_case": cases.first_cases,
    "run_case": cases.run_cases,
}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of the variants that take long."""
    config.addinivalue_line("markers", "slow: a variant of a family whose training takes long")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the laws with the families and cases of the command line."""
    families, settings = selection(metafunc.config)
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", families)
    for name, parameters in PARAMETERS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, parameters(families, settings))


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use one thread, and keep caches of the tested code out of the user's state directory."""
    monkeypatch.setenv("AIGC_OPS_HOME", str(tmp_path / "home"))
    # The models are so small that threads would mostly wait for one another.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)

"""One state directory in which a model of the toy modality went through the whole chain."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.flows.conftest import Console, Workplace
from tests.pulses.making import CONFIG, write_pulses

PACKAGE = Path(__file__).parent / "package"


class PulseWorkplace(Workplace):
    """A workplace whose processes find the toy package as an installed one."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": f"{PACKAGE}{os.pathsep}{ROOT}"}

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "aigc_ops", *map(str, arguments)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> PulseWorkplace:
    folder = tmp_path_factory.mktemp("pulses")
    config = folder / "pulses.yaml"
    config.write_text(CONFIG.format(data=write_pulses(folder / "data"), steps=40))
    return PulseWorkplace(folder / "home", config)


@pytest.fixture(scope="module")
def console(
    workplace: PulseWorkplace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """The command line in that state directory, in one process."""
    console = Console(workplace, tmp_path_factory.mktemp("console"))
    yield console
    console.close()

"""`pytest --pyargs aigc_ops.laws` in a folder elsewhere, on families of another package."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import ModelError
from aigc_ops.laws import cases
from aigc_ops.laws.plugin import selection
from aigc_ops.models.vae import Vae
from tests.conftest import ROOT
from tests.pulses.conftest import PACKAGE

FAMILY = """
from typing import Literal
import torch
from aigc_ops.interfaces.model import Loss
from aigc_ops.interfaces.request import Control
from pulses.gauss import Gauss, GaussConfig

class Config(GaussConfig):
    family: Literal["{literal}"] = "{literal}"

class Broken(Gauss):
    config_type = Config
{fault}
"""

# Each fault, and the laws that find it.
FAULTS = {
    "shared_noise": (
        """
    def sample(self, requests):
        generator = requests[0].generator() if requests else None
        return torch.randn(len(requests), self.length, generator=generator)
""",
        {"a_sample_is_the_same_alone_and_among_others"},
    ),
    "one_seed": (
        """
    def sample(self, requests):
        return torch.zeros(len(requests), self.length)
""",
        {"other_seeds_give_other_samples"},
    ),
    "lost_sample": (
        """
    def sample(self, requests):
        return super().sample(requests[:3])
""",
        {
            "each_request_gives_one_sample_that_its_codec_encodes",
            "a_sample_is_the_same_alone_and_among_others",
            "a_resumed_run_ends_bit_equal_to_an_uninterrupted_one",  # whose preview fails
        },
    ),
    "no_empty_batch": (
        """
    def sample(self, requests):
        assert requests
        return super().sample(requests)
""",
        {"each_request_gives_one_sample_that_its_codec_encodes"},
    ),
    "forgotten_state": (
        """
    shift = 0.0
    @classmethod
    def from_data(cls, config, data):
        model = super().from_data(config, data)
        model.shift = 1.0
        return model
    def sample(self, requests):
        return super().sample(requests) + self.shift
""",
        {"a_stored_model_generates_the_same_samples"},
    ),
    "unused_parameter": (
        """
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.levels["unused"] = torch.zeros(1)
""",
        {"gradients_reach_every_parameter_of_the_part_that_a_loss_names"},
    ),
    "lost_part": (
        """
    def parts(self):
        return {**super().parts(), "more": torch.nn.Linear(1, 1)}
    def losses(self, batch, noise):
        [loss] = super().losses(batch, noise)
        yield loss._replace(value=loss.value.square())
    def optimizer(self, part):
        return self.config.optimizer.optimizer(self.levels.parameters())
""",
        {"gradients_reach_every_parameter_of_the_part_that_a_loss_names"},
    ),
    "hidden_count": (
        """
    count = 0
    def losses(self, batch, noise):
        self.count += 1
        for loss in super().losses(batch, noise):
            yield loss._replace(value=loss.value * self.count)
""",
        {"a_resumed_run_ends_bit_equal_to_an_uninterrupted_one"},
    ),
    "no_check": (
        """
    def controls(self):
        return {"level": Control(0.0, 1.0, "Loudness.")}
    def check(self, request):
        pass
""",
        {
            "unknown_conditions_and_controls_are_refused",
            "controls_are_kept_within_their_bounds",
        },
    ),
    "lost_end": (
        """
    def interpolate(self, start, end, num):
        return self.sample([start] * num)
""",
        {"an_interpolation_ends_in_the_samples_of_its_seeds"},
    ),
    "noisy_code": (
        """
    def reconstruct(self, samples, requests):
        return samples + torch.randn(samples.shape)
""",
        {"a_reconstruction_is_a_sample_and_always_the_same"},
    ),
}

SILENT = """
from aigc_ops.interfaces.training import TrainingHooks
from pulses import Pulses
from pulses.training import PulseTraining

class SilentTraining(PulseTraining):
    example_data = TrainingHooks.example_data

class Silent(Pulses):
    name = "silent"
    training = SilentTraining()

MODALITY = Silent()
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of broken families, as an installed one."""
    folder = tmp_path_factory.mktemp("package")
    families = {name: (name, fault) for name, (fault, _) in FAULTS.items()}
    families["misnamed"] = ("gauss", "    pass")
    families["quiet"] = ("quiet", '    modality = "silent"')
    for name, (literal, fault) in families.items():
        code = FAMILY.format(literal=literal, fault=fault)
        (folder / f"broken_{name}.py").write_text(code)
    (folder / "broken_silent.py").write_text(SILENT)
    info = folder / "broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    points = "".join(f"{name} = broken_{name}\n" for name in families)
    (info / "entry_points.txt").write_text(
        f"[aigc_ops.modalities]\nsilent = broken_silent:MODALITY\n[aigc_ops.families]\n{points}"
    )
    return folder


def laws(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the laws in a folder without configuration of pytest."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "--pyargs", "aigc_ops.laws", *arguments],
        cwd=package,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "PYTHONPATH": os.pathsep.join(map(str, (package, PACKAGE, ROOT))),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def run(package: Path) -> subprocess.CompletedProcess[str]:
    """One run on all of the package's families."""
    names = [f"--family={name}" for name in (*FAULTS, "misnamed", "quiet")]
    return laws(package, *names, "-rfs", "--tb=no")


def test_each_law_fails_on_a_family_that_breaks_it(run):
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    found: dict[str, set[str]] = {}
    for law, case in re.findall(r"^FAILED \S+::test_(\w+)\[([^\]]+)\]", run.stdout, re.M):
        # The id is the family's name, then the data's, and with a number before it.
        [family] = {*FAULTS, "misnamed"} & set(re.split("[-,]", case))
        found.setdefault(family, set()).add(law)
    expected = {name: laws for name, (_, laws) in FAULTS.items()}
    expected["misnamed"] = {"the_name_of_a_family_is_the_literal_in_its_config"}
    assert found == expected


def test_laws_without_data_are_skipped_with_the_method_to_implement(run):
    reason = "no data to test on: implement broken_silent.SilentTraining.example_data"
    assert re.search(f"^SKIPPED .*{re.escape(reason)}$", run.stdout, re.M)


@pytest.mark.slow
def test_all_families_are_collected_where_unknown_markers_are_errors(package):
    run = laws(package, "--collect-only", "-q", "--strict-markers", "-W", "error")
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("gan wasserstein, 32 colour", "gpt, documents", "lost_part, two classes"):
        assert f"[{name}]" in run.stdout


def test_an_unknown_family_is_refused_without_a_traceback(package):
    run = laws(package, "--family", "gna")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert run.stderr.strip() == "ERROR: 'gna' is not a family (model.family); did you mean gan?"


@pytest.mark.parametrize(
    ("families", "settings", "message"),
    [
        (None, "{}", "--family-config needs exactly one --family NAME"),
        (["vae", "gan"], "{}", "--family-config needs exactly one --family NAME"),
        (["vae"], '{"widht": 8}', "widht"),
        (["vae"], "width=8", "Invalid JSON"),
    ],
)
def test_invalid_settings_are_refused(families, settings, message):
    values = {"aigc_ops_families": families, "aigc_ops_family_config": settings}
    config = SimpleNamespace(getoption=lambda name, default=None: values[name])
    with pytest.raises(pytest.UsageError, match=message):
        selection(config)


def test_settings_replace_the_small_ones():
    assert cases.small_configs("vae", '{"width": 4}')["vae"].width == 4
    ids = [param.id for param in cases.every_case(["vae"], '{"width": 4, "latent_dim": 2}')]
    assert ids == ["vae, 28 grey labelled", "vae, 32 colour", "vae, 8 one class"]


def test_data_that_a_family_rejects_is_skipped_unless_it_rejects_all(monkeypatch):
    from_data = Vae.from_data
    accepted: set[int] = {32, 8}

    def choosy(config, data):
        if data.shape.height not in accepted:
            raise ModelError("this family learns other images")
        return from_data(config, data)

    monkeypatch.setattr(Vae, "from_data", choosy)
    settings = ('{"width": 4}', '{"width": 5}')
    params = cases.every_case(["vae"], settings[0])
    assert [(param.values[0].data.shape.height, bool(param.marks)) for param in params] == [
        (32, False), (8, False), (28, True)
    ]  # fmt: skip
    [first] = cases.first_cases(["vae"], settings[0])
    assert first.values[0].data.shape == ImageShape(channels=3, height=32, width=32)
    accepted.clear()
    assert not any(param.marks for param in cases.every_case(["vae"], settings[1]))


def test_the_plugin_that_every_run_of_pytest_imports_is_light():
    check = "import sys, aigc_ops.laws.plugin; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", check], env=environment).returncode == 0

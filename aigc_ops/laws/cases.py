"""Cases on which the laws are tested: families with small settings, on small datasets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.model import FamilyConfig, Generative
from aigc_ops.models import family_type, modality_of
from aigc_ops.sampling import sampler

_ADAM = {"learning_rate": 2e-3, "beta1": 0.5}
_GAN = {
    "latent_dim": 8,
    "generator_width": 16,
    "critic_width": 16,
    "generator": _ADAM,
    "critic": _ADAM,
}
_VAE = {"latent_dim": 8, "width": 8}
CONFIGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "gan": {
        "": _GAN,
        "dense": {**_GAN, "network": "fully_connected"},
        "residual hinge": {
            **_GAN,
            "network": "residual",
            "loss": "hinge",
            "spectral_norm": True,
            "label_in": "norm",
        },
        "wasserstein": {
            **_GAN,
            "loss": "wasserstein",
            "gradient_penalty": 10.0,
            "critic_steps": 2,
        },
        "least squares": {**_GAN, "loss": "least_squares", "r1": 1.0, "label_in": "norm"},
        "codes": {**_GAN, "categorical_codes": (3,), "continuous_codes": 1},
        "augmented": {**_GAN, "augmentations": ("color", "translation", "cutout")},
    },
    "vae": {
        "": _VAE,
        "dense gaussian": {**_VAE, "network": "fully_connected", "likelihood": "gaussian"},
        "binarized": {**_VAE, "binarized": True},
        "free": {**_VAE, "beta_warmup_steps": 10, "free_nats": 0.1},
    },
    "gpt": {
        "": {
            "tokenizer": "bytes",
            "num_layers": 2,
            "num_heads": 2,
            "width": 32,
            "context_length": 48,
            "dropout": 0.1,
        },
    },
}
"""Settings by family and variant; a family that is not listed is tested with its defaults."""


@dataclass(frozen=True)
class Case:
    """A family's settings, and the data on which it is tested."""

    config: FamilyConfig
    data: TrainingData

    @property
    def modality(self) -> Modality[Any]:
        """Modality of the family's samples."""
        return modality_of(self.config.family)

    def model(self) -> Generative[Any]:
        """Return a new model with fixed initial weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return family_type(self.config.family).from_data(self.config, self.data).eval()

    def rejection(self) -> str | None:
        """Return the message with which the family rejects the data; None if it accepts it."""
        try:
            self.model()
        except ModelError as error:
            return str(error)
        return None


def generate(model: Generative[Any], num: int, seed: int = 5) -> Any:
    """Return samples with the default conditions."""
    return sampler.generate(model, sampler.requests(model, num, seed=seed))


def difference(model: Generative[Any], samples: Any, others: Any) -> int:
    """Return the largest difference of two batches of equal length, 0 (equal) to 255."""
    assert len(samples) == len(others)
    codec = modality_of(model.config.family).samples
    pairs = ((samples[index], others[index]) for index in range(len(samples)))
    return max(codec.difference(codec.encode(sample), other) for sample, other in pairs)


def enlarged(model: Generative[Any]) -> Generative[Any]:
    """Return the model with all weights times 20."""
    # With the initial weights of a deep network, all samples may round to the same levels.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    return model


def small_configs(family: str, settings: str | None = None) -> dict[str, FamilyConfig]:
    """Return the configs with which a family is tested, by name; only one if given as JSON.

    Raises ModelError for an unknown family, and pydantic's ValidationError for invalid settings.
    """
    config_type = family_type(family).config_type
    if settings is not None:
        return {family: config_type.model_validate_json(settings)}
    return {
        f"{family} {variant}".strip(): config_type.model_validate(values)
        for variant, values in CONFIGS.get(family, {"": {}}).items()
    }


# The functions below return parameters for `pytest.mark.parametrize`. They take names of families,
# and settings as in `small_configs`.
def every_case(families: Iterable[str], settings: str | None = None) -> list[Any]:
    """Return each config of the families on each dataset of its modality."""
    groups = (group for family in families for group in _groups(family, settings))
    return [param for group in groups for param in group]


def first_cases(families: Iterable[str], settings: str | None = None) -> list[Any]:
    """Return each config of the families on the first dataset that it accepts."""
    return [group[0] for family in families for group in _groups(family, settings)]


def run_cases(families: Iterable[str], settings: str | None = None) -> list[Any]:
    """Return `first_cases`; those beyond the first config of a family are marked slow."""
    params = []
    for family in families:
        first, *others = first_cases([family], settings)
        # No constant of the module: `conftest.pytest_configure` declares the marker after imports.
        slow = (
            pytest.param(*p.values, id=p.id, marks=(*p.marks, pytest.mark.slow)) for p in others
        )
        params += [first, *slow]
    return params


@cache
def _groups(family: str, settings: str | None) -> list[list[Any]]:
    """Return the cases of each config, first those on data that the family accepts."""
    hooks = modality_of(family).training
    datasets = hooks.example_data()
    if not datasets:
        method = f"{type(hooks).__module__}.{type(hooks).__qualname__}.example_data"
        skip = pytest.mark.skip(reason=f"no data to test on: implement {method}")
        return [[pytest.param(None, id=family, marks=skip)]]
    groups = []
    for name, config in small_configs(family, settings).items():
        cases = {f"{name}, {key}": Case(config, data) for key, data in datasets.items()}
        rejections = {name: case.rejection() for name, case in cases.items()}
        if all(rejections.values()):  # then the tests fail with the message
            rejections = dict.fromkeys(cases)
        params = (_param(name, case, rejections[name]) for name, case in cases.items())
        groups.append(sorted(params, key=lambda param: len(param.marks)))
    return groups


def _param(name: str, case: Case, rejection: str | None) -> Any:
    marks = [pytest.mark.skip(reason=f"the family rejects it: {rejection}")] if rejection else []
    return pytest.param(case, id=name, marks=marks)

"""The families of this package, beyond the laws of aigc_ops/laws."""

from pathlib import Path

import pytest
import torch

from aigc_ops.compute.random import Noise, sample_seeds
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.laws.cases import (
    Case,
    difference,
    enlarged,
    every_case,
    first_cases,
    generate,
    run_cases,
)
from aigc_ops.laws.runs import trained
from aigc_ops.modalities.image.model import ImageData, ImageLikelihoodModel
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models import family_names, family_type
from aigc_ops.sampling import sampler
from aigc_ops.storage.checkpoints import load_model
from aigc_ops.training.monitor import OnlineMetrics
from tests.conftest import ROOT, noise_for
from tests.training.runs import real_digits

each_case = pytest.mark.parametrize("case", every_case(family_names()))
each_family = pytest.mark.parametrize("case", first_cases(family_names()))
each_learner = pytest.mark.parametrize("case", run_cases(family_names()))

BY_HEART = {"vae": ("autoencoder", 0.35), "gpt": ("optimizer", 0.05)}
"""What learns at 1e-2, and the share of the first loss that is left when all is known by heart.

Of the VAE's 139.5 nats 40 are left, 24 of them log 32 and the entropy of the grey levels; of
the GPT's 5.6 a byte, 0.13.
"""


@each_case
@pytest.mark.parametrize("num", [0, 1, 5])
def test_samples_have_the_datas_own_shape_and_range(case, num):
    samples = generate(case.model(), num)
    if isinstance(case.data, ImageData):
        shape = case.data.shape
        assert samples.shape == (num, shape.channels, shape.height, shape.width)
        assert samples.dtype == torch.uint8
    else:
        assert all(isinstance(text, str) for text in samples)


@pytest.mark.parametrize("case", every_case(["vae"]))
def test_figures_of_an_image_are_the_same_alone_and_among_others(case):
    model = case.model()
    assert isinstance(model, ImageLikelihoodModel)
    batch = {name: rows[:6] for name, rows in model.examples(case.data).items()}
    together = model.figures(batch, noise_for(batch), num_draws=3).values
    for index in range(6):
        row = slice(index, index + 1)
        one = {name: rows[row] for name, rows in batch.items()}
        alone = model.figures(one, Noise(0, rows=row, batch_size=6), num_draws=3).values
        assert alone.keys() == together.keys()
        for name, values in together.items():
            assert values.shape == (6,)
            assert alone[name].item() == pytest.approx(values[index].item(), rel=1e-4), name
    for images in model.pictures(batch, noise_for(batch)).values():
        assert images.dtype == torch.uint8
        assert images.shape[2:] == case.data.images.shape[1:]


@each_learner
def test_32_examples_are_learnt_by_heart_in_bf16(case, tmp_path):
    part, share = BY_HEART.get(case.config.family, (None, 0.9))
    config, data = case.config, case.data
    if part is not None:
        adam = getattr(config, part).model_copy(update={"learning_rate": 1e-2})
        config = config.model_copy(update={part: adam})
    if isinstance(data, ImageData):
        data = real_digits(40).take(torch.arange(32))
    case = Case(config, data)
    model = case.model()
    online = OnlineMetrics(case.modality.training, case.data, lambda: case.data, rows_at_once=32)
    before = online.measure(model)
    settings = {"steps": 100, "batch_size": 32, "ema_decay": 0.9, "precision": "bf16"}
    checkpoint = trained(case, tmp_path, **settings)
    after = online.measure(load_model(Path(checkpoint.uri)))
    assert {"heldout/loss", "samples/energy_distance"} & before.keys()
    if "heldout/loss" in before:
        assert after["heldout/loss"] < share * before["heldout/loss"]
    if "samples/energy_distance" in before:
        assert after["samples/energy_distance"] < 0.4 * before["samples/energy_distance"]
        assert after["samples/coverage"] > 0.6


@each_family
def test_images_of_classes_need_a_label(case):
    model = case.model()
    if model.num_classes:
        with pytest.raises(ModelError, match="needs a label"):
            model.check(SampleRequest(0))


@each_family
def test_both_bounds_of_a_control_give_other_samples(case):
    """Not a law: the controls of another family may have no effect before training."""
    model = enlarged(case.model())
    [request] = sampler.requests(model, 1, seed=0)
    for name, control in model.controls().items():
        low, high = (
            sampler.generate(model, [SampleRequest(0, request.conditions, {name: value})])
            for value in (control.low, control.high)
        )
        assert difference(model, low, high) > 0, name


def test_every_file_in_the_models_folder_is_a_family_named_after_it():
    files = (ROOT / "aigc_ops" / "models").glob("[!_]*.py")
    assert {path.stem for path in files} == set(family_names())


def test_the_laws_are_checked_on_every_family():
    for params in (every_case, first_cases, run_cases):
        cases = [param.values[0] for param in params(family_names())]
        assert {case.config.family for case in cases} == set(family_names())


def test_an_unknown_family_is_answered_with_the_nearest_name():
    with pytest.raises(ModelError, match="did you mean gan"):
        family_type("gna")


def test_the_seeds_of_a_call_begin_with_its_own_and_never_repeat():
    seeds = sample_seeds(5, 10_000)
    assert seeds[0] == 5
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert not set(sample_seeds(6, 10_000)) & set(seeds)


def test_text_and_images_both_have_a_family():
    cases = [param.values[0] for param in every_case(family_names())]
    assert {type(case.data) for case in cases} == {ImageData, TextData}

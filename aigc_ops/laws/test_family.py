"""Laws of a model family: what the other stages rely on, whatever its modality."""

import math
import re
from pathlib import Path

import pytest
import torch

from aigc_ops.compute.random import Noise
from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.core.errors import CheckpointError, ModelError
from aigc_ops.interfaces.latents import Interpolates, Reconstructs
from aigc_ops.interfaces.model import Loss
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.laws.cases import Case, difference, enlarged, generate
from aigc_ops.laws.runs import assert_bit_equal, trained
from aigc_ops.models import family_type
from aigc_ops.sampling import latents, sampler
from aigc_ops.storage.checkpoints import load_model, write_model

# Of 255. The same sample may be rounded otherwise: matrix products depend on the batch's size.
ROUNDING_LEVELS = 1


def test_the_name_of_a_family_is_the_literal_in_its_config(family: str) -> None:
    """Check that a config's `family` names the file, or the entry point, of the family."""
    assert family_type(family).config_type.model_fields["family"].default == family


@pytest.mark.parametrize("num", [0, 1, 5])
def test_each_request_gives_one_sample_that_its_codec_encodes(case: Case, num: int) -> None:
    """Check that `sample` returns a batch of its modality, for no requests too."""
    model, codec = case.model(), case.modality.samples
    samples = generate(model, num)
    assert len(samples) == num
    for index in range(num):
        content = codec.encode(samples[index])
        assert codec.difference(content, codec.decode(content)) == 0
        assert codec.difference(content, samples[index]) <= ROUNDING_LEVELS
    assert len(codec.join([samples, generate(model, 2)])) == num + 2


def test_a_sample_is_the_same_alone_and_among_others(case: Case) -> None:
    """Check that `sample` takes its noise from each request's own generator."""
    model, codec = case.model(), case.modality.samples
    requests = sampler.requests(model, 7, seed=5)
    together = sampler.generate(model, requests)
    for index, request in enumerate(requests):
        alone = sampler.generate(model, [request])
        content = codec.encode(alone[0])
        assert codec.difference(content, together[index]) <= ROUNDING_LEVELS


def test_other_seeds_give_other_samples(first_case: Case) -> None:
    """Check that samples depend on the seed of their request."""
    assert any(
        difference(model, generate(model, 4, seed=1), generate(model, 4, seed=2)) > 0
        for model in (first_case.model(), enlarged(first_case.model()))
    )


def test_a_stored_model_generates_the_same_samples(case: Case, tmp_path: Path) -> None:
    """Check that config, `blueprint` and weights rebuild the model."""
    model = case.model()
    write_folder(tmp_path / "model", lambda folder: write_model(model, folder))
    loaded = load_model(tmp_path / "model")
    assert difference(model, generate(model, 4), generate(loaded, 4)) == 0


def test_a_changed_weight_is_refused_by_its_digest(first_case: Case, tmp_path: Path) -> None:
    """Check that a damaged model folder is not loaded."""
    model = first_case.model()
    write_folder(tmp_path / "model", lambda folder: write_model(model, folder))
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path / "model")


def test_gradients_reach_every_parameter_of_the_part_that_a_loss_names(case: Case) -> None:
    """Check that `losses` yields a scalar for each of `parts`, in their order."""
    model = case.model().train()
    batch = {name: rows[:8] for name, rows in model.examples(case.data).items()}
    named = []
    noise = Noise(0, batch_size=len(next(iter(batch.values()))))
    for loss in (Loss(*pair) for pair in model.losses(batch, noise)):
        named.append(loss.part)
        assert loss.value.ndim == 0, f"{loss.part}: not a scalar"
        part = model.parts()[loss.part]
        parameters = {name: p for name, p in part.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(
            loss.value, list(parameters.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            assert gradient is not None, f"{loss.part}.{name}: no gradient"
            assert gradient.isfinite().all(), f"{loss.part}.{name}: inf or NaN"
    assert list(dict.fromkeys(named)) == list(model.parts())


def test_a_resumed_run_ends_bit_equal_to_an_uninterrupted_one(
    run_case: Case, tmp_path: Path
) -> None:
    """Check that a run depends on nothing that its checkpoints lack, such as a Python count."""
    # On the CPU, since many CUDA kernels are not deterministic.
    settings = {"device": "cpu", "checkpoint_every": 5, "ema_decay": 0.9}
    whole = trained(run_case, tmp_path / "whole", steps=6, **settings)
    trained(run_case, tmp_path / "cut", steps=5, **settings)
    resumed = trained(run_case, tmp_path / "cut", steps=6, **settings)
    assert_bit_equal(Path(whole.uri), Path(resumed.uri))


def test_unknown_conditions_and_controls_are_refused(first_case: Case) -> None:
    """Check that a request with an unknown name or label is refused."""
    model = first_case.model()
    [request] = sampler.requests(model, 1, seed=0)
    for name, value in (("no_such_condition", "x"), ("label", model.num_classes)):
        wrong = SampleRequest(0, {**request.conditions, name: value})
        assert not sampler.accepts(model, wrong), f"{name} {value} was accepted"
    wrong = SampleRequest(0, request.conditions, {"no_such_control": 1.0})
    assert not sampler.accepts(model, wrong), "an unknown control was accepted"


def test_controls_are_kept_within_their_bounds(first_case: Case) -> None:
    """Check that each control accepts its bounds, and no values outside or NaN."""
    model = first_case.model()
    [request] = sampler.requests(model, 1, seed=0)
    for name, control in model.controls().items():
        bounds = [value for value in (control.low, control.high) if math.isfinite(value)]
        for value in bounds:
            model.check(SampleRequest(0, request.conditions, {name: value}))
        outside = {control.low - 1, control.high + 1} - set(bounds)
        for value in (*(v for v in outside if math.isfinite(v)), math.nan):
            with pytest.raises(ModelError, match=re.escape(name)):
                model.check(SampleRequest(0, request.conditions, {name: value}))


@pytest.mark.parametrize("num", [2, 5])
def test_an_interpolation_ends_in_the_samples_of_its_seeds(case: Case, num: int) -> None:
    """Check `interpolate`, of families that have it, against `sample`."""
    model, codec = enlarged(case.model()), case.modality.samples
    if not isinstance(model, Interpolates):
        pytest.skip("the family does not interpolate")
    start, end = (sampler.requests(model, 1, seed=seed)[0] for seed in (5, 6))
    found = latents.interpolate(model, start, end, num)
    assert len(found) == num
    for request, sample in ((start, found[0]), (end, found[-1])):
        content = codec.encode(sampler.generate(model, [request])[0])
        assert codec.difference(content, sample) <= ROUNDING_LEVELS
    assert difference(model, found, latents.interpolate(model, start, end, num)) == 0
    for index in range(num):
        content = codec.encode(found[index])
        assert codec.difference(content, found[index]) <= ROUNDING_LEVELS


def test_a_reconstruction_is_a_sample_and_always_the_same(case: Case) -> None:
    """Check `reconstruct`, of families that have it, on samples of the model itself."""
    model, codec = enlarged(case.model()), case.modality.samples
    if not isinstance(model, Reconstructs):
        pytest.skip("the family does not reconstruct")
    requests = sampler.requests(model, 4, seed=5)
    samples = sampler.generate(model, requests)
    with sampler.inference(model):
        found = model.reconstruct(samples, requests)
        again = model.reconstruct(samples, requests)
    assert len(found) == len(samples)
    assert difference(model, found, again) == 0
    for index in range(len(samples)):
        content = codec.encode(found[index])
        assert codec.difference(content, found[index]) <= ROUNDING_LEVELS
    joined = codec.join([samples, found])  # which have one shape
    assert len(joined) == 2 * len(samples)

"""What is the VAE's own: its bound, its likelihoods, its codes."""

import math

import pytest
import torch

from aigc_ops.artifacts import ImageShape
from aigc_ops.generative import SampleRequest
from aigc_ops.models.vae import Vae, VaeConfig, _divergence
from aigc_ops.noise import Noise
from tests.conftest import noise_for

SHAPE = ImageShape(channels=1, height=8, width=8)
BATCH = {"images": torch.full((4, 1, 8, 8), 200, dtype=torch.uint8)}


def vae(**settings) -> Vae:
    torch.manual_seed(0)
    return Vae(VaeConfig(latent_dim=4, width=4, **settings), SHAPE).train()


def loss_of(model: Vae, step: int = 0):
    [loss] = model.losses(BATCH, Noise(0, step, batch_size=4))
    return loss


def test_the_bound_is_reconstruction_and_divergence():
    value, metrics = loss_of(vae()).value, loss_of(vae()).metrics
    parts = metrics["reconstruction"] + metrics["kl"]
    assert value.item() == pytest.approx(parts.item(), rel=1e-5)
    assert metrics["elbo"].item() == pytest.approx(-parts.item(), rel=1e-5)


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (20, 1.0)])
def test_beta_rises_over_the_warm_up(step, share):
    loss = loss_of(vae(beta=2.0, beta_warmup_steps=10), step)
    expected = loss.metrics["reconstruction"] + 2.0 * share * loss.metrics["kl"]
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_free_nats_cost_the_same_however_small_the_divergence():
    loss = loss_of(vae(free_nats=50.0))
    assert loss.value.item() == pytest.approx(
        loss.metrics["reconstruction"].item() + 4 * 50.0, rel=1e-5
    )


def test_held_out_the_bound_has_its_full_weight():
    model = vae(beta=4.0, free_nats=50.0).eval()
    loss = loss_of(model)
    assert loss.value.item() == pytest.approx(-loss.metrics["elbo"].item(), rel=1e-5)


def test_the_divergence_of_the_prior_is_zero_and_else_as_in_closed_form():
    zero = torch.zeros(1, 1)
    assert _divergence(zero, zero).item() == 0
    mean, deviation = 1.5, 0.5
    expected = 0.5 * (mean**2 + deviation**2 - 1 - 2 * math.log(deviation))
    found = _divergence(torch.full((1, 1), mean), torch.full((1, 1), 2 * math.log(deviation)))
    assert found.item() == pytest.approx(expected)


def test_a_gaussian_pixel_has_a_density_that_integrates_to_one():
    model = vae(likelihood="gaussian", pixel_deviation=0.1)
    pixels = torch.linspace(-0.5, 1.5, 4001)[:, None]
    nats = model._surprise(torch.zeros(4001, 1), pixels)
    assert torch.trapezoid((-nats).exp(), pixels[:, 0]).item() == pytest.approx(1.0, abs=1e-3)


def test_the_importance_weighted_bound_rises_with_the_codes_from_the_elbo():
    model = vae().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # far from the prior, so that the bounds differ
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()

    def bound(num: int) -> float:
        noise = Noise(0, batch_size=64)
        return model.log_likelihood(images, None, num_codes=num, noise=noise).mean().item()

    assert bound(1) < bound(10) < bound(100)
    batch = {"images": (images * 255).to(torch.uint8)}
    elbos = [next(model.losses(batch, noise_for(batch, s))).metrics["elbo"] for s in range(50)]
    ones = [
        model.log_likelihood(images, None, num_codes=1, noise=Noise(s, batch_size=64)).mean()
        for s in range(50)
    ]
    assert torch.stack(ones).mean() == pytest.approx(torch.stack(elbos).mean().item(), rel=0.02)


def test_interpolation_goes_from_one_reconstruction_to_the_other():
    model = vae().eval()
    images = torch.stack([BATCH["images"][0], BATCH["images"][0] // 4])
    ends = model.reconstruct(images, None)
    path = model.interpolate(images, None, num=5)
    assert path.shape == (5, 1, 8, 8)
    assert torch.equal(path[[0, -1]], ends)


def test_a_latent_unit_and_the_temperature_are_set_by_controls():
    model = vae()
    code = model._code(SampleRequest(1, controls={"latent_2": 3.0}))
    plain = model._code(SampleRequest(1))
    assert code[1] == 3.0
    assert torch.equal(code[[0, 2, 3]], plain[[0, 2, 3]])
    assert model._code(SampleRequest(1, controls={"temperature": 0.0})).abs().max() == 0

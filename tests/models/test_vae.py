"""What is the VAE's own: its bound, its likelihoods, its codes."""

import math

import pytest
import torch
from pydantic import ValidationError

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.models.vae import Vae, VaeConfig, _interpolation_pairs, _kl_divergence
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
    assert _kl_divergence(zero, zero).item() == 0
    mean, deviation = 1.5, 0.5
    expected = 0.5 * (mean**2 + deviation**2 - 1 - 2 * math.log(deviation))
    found = _kl_divergence(torch.full((1, 1), mean), torch.full((1, 1), 2 * math.log(deviation)))
    assert found.item() == pytest.approx(expected)


def test_a_gaussian_pixel_has_a_density_that_integrates_to_one():
    model = vae(likelihood="gaussian", pixel_deviation=0.1)
    pixels = torch.linspace(-0.5, 1.5, 4001)[:, None]
    nats = model._nll(torch.zeros(4001, 1), pixels)
    assert torch.trapezoid((-nats).exp(), pixels[:, 0]).item() == pytest.approx(1.0, abs=1e-3)


def binary_batch(num: int) -> dict[str, torch.Tensor]:
    images = torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    return {"images": (images * 255).to(torch.uint8)}


def far_from_its_prior() -> Vae:
    """An untrained model whose weights are large, so that its bounds differ."""
    model = vae(binarized=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)
    return model


def test_more_importance_samples_find_an_image_likelier_up_from_the_elbo():
    model, batch = far_from_its_prior(), binary_batch(64)

    def figure(name: str, num: int, seed: int = 0) -> float:
        figures = model.figures(batch, noise_for(batch, seed), num_draws=num)
        return figures.values[name].mean().item()

    assert -figure("elbo", 100) > figure("nll", 10) > figure("nll", 100)
    ones = [figure("nll", 1, seed) for seed in range(50)]
    assert sum(ones) / 50 == pytest.approx(-figure("elbo", 100), rel=0.02)
    loss = sum(next(model.losses(batch, noise_for(batch, s))).value.item() for s in range(50)) / 50
    assert loss == pytest.approx(-figure("elbo", 100), rel=0.02)


def test_of_a_decoder_that_ignores_its_code_the_likelihood_is_known_and_the_bound_lacks_the_kl():
    model, batch = vae(binarized=True).eval(), binary_batch(4)
    with torch.no_grad():
        for weight in model.autoencoder.upward.parameters():
            weight.zero_()  # each pixel is 1 with a half
        model.autoencoder.posterior.weight.zero_()
        model.autoencoder.posterior.bias.copy_(torch.tensor([0.5] * 4 + [-0.2] * 4))
    found = model.figures(batch, noise_for(batch), num_draws=5_000).values
    divergence = 4 * 0.5 * (0.5**2 + math.exp(-0.2) - 1 + 0.2)
    assert found["kl"].tolist() == pytest.approx([divergence] * 4)
    assert found["reconstruction"].tolist() == pytest.approx([64 * math.log(2)] * 4)
    assert (-found["elbo"]).tolist() == pytest.approx([64 * math.log(2) + divergence] * 4)
    # The mean of 5,000 weights, each with a deviation of about 1.3.
    assert found["nll"].tolist() == pytest.approx([64 * math.log(2)] * 4, abs=0.08)


def test_a_grey_level_is_the_chance_of_a_one_and_drawn_anew_at_each_step():
    model = vae(binarized=True)
    levels = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).repeat(4, 1, 8, 2)
    drawn = torch.stack(
        [model._prepared(levels, Noise(0, step, batch_size=4)) for step in range(200)]
    )
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    chances = (drawn == 1).float().mean(dim=(0, 1, 2, 3)).view(2, 4).mean(dim=0)
    assert chances.tolist() == pytest.approx([0.0, 0.2, 0.8, 1.0], abs=0.01)
    assert not torch.equal(drawn[0], drawn[1])


def test_gaussian_pixels_are_not_binarised():
    with pytest.raises(ValidationError, match="binarized pixels are bernoulli ones"):
        VaeConfig(likelihood="gaussian", binarized=True)


def test_pictures_pair_images_with_reconstructions_and_the_ends_of_paths():
    model, batch = far_from_its_prior(), binary_batch(5)
    pictures = model.pictures(batch, noise_for(batch))
    again = model.reconstruct(batch["images"], [SampleRequest(0)] * 5)
    assert torch.equal(pictures["reconstructions"], torch.stack([batch["images"], again], dim=1))
    assert torch.equal(pictures["interpolations"][:, [0, -1]], again[:4].unflatten(0, (2, 2)))


def test_paths_join_images_of_one_class():
    assert [
        ends.tolist() for ends in _interpolation_pairs(torch.tensor([2, 0, 1, 2, 0, 2]), 6)
    ] == [
        [1, 4],
        [0, 3],
    ]


def test_interpolation_goes_from_one_reconstruction_to_the_other():
    model = vae().eval()
    images = torch.stack([BATCH["images"][0], BATCH["images"][0] // 4])
    ends = model.reconstruct(images, [SampleRequest(0)] * 2)
    path = model._interpolate(images, None, num=5)
    assert path.shape == (5, 1, 8, 8)
    assert torch.equal(path[[0, -1]], ends)


def test_a_latent_unit_and_the_temperature_are_set_by_controls():
    model = vae()
    code = model._code(SampleRequest(1, controls={"latent_2": 3.0}))
    plain = model._code(SampleRequest(1))
    assert code[1] == 3.0
    assert torch.equal(code[[0, 2, 3]], plain[[0, 2, 3]])
    assert model._code(SampleRequest(1, controls={"temperature": 0.0})).abs().max() == 0


@pytest.mark.parametrize(("num", "is_told"), [(1, False), (3, False), (4, True)])
def test_active_units_are_not_told_of_too_few_rows(num, is_told):
    images = {"images": BATCH["images"][:num]}
    [loss] = vae().eval().losses(images, noise_for(images))
    assert ("active_units" in loss.metrics) == is_told

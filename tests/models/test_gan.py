"""What is the GAN's own: the game, its losses, its codes."""

import math

import pytest
import torch
from pydantic import ValidationError

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.models.gan import Gan, GanConfig, separation
from aigc_ops.models.nn.augmentation import augment
from tests.conftest import noise_for

SMALL = {"latent_dim": 4, "generator_width": 4, "critic_width": 4}
GREY = ImageShape(channels=1, height=8, width=8)
BATCH = {"images": torch.arange(4 * 64, dtype=torch.uint8).reshape(4, 1, 8, 8)}


def test_a_label_in_the_norm_begins_with_dcgans_scales():
    shape = GREY.model_copy(update={"class_names": ("a", "b")})
    model = Gan(GanConfig(label_in="norm", latent_dim=4, generator_width=32), shape)
    [scale] = [p for n, p in model.generator.named_parameters() if n.endswith("scale.weight")]
    [shift] = [p for n, p in model.generator.named_parameters() if n.endswith("shift.weight")]
    assert scale.mean().item() == pytest.approx(1, abs=0.02)
    assert scale.std().item() == pytest.approx(0.02, rel=0.4)
    assert not shift.any()


def zeroed_critic(model: Gan) -> None:
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.zero_()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("non_saturating", math.log(2)), ("hinge", 0.0), ("least_squares", 0.5), ("wasserstein", 0.0)],
)
def test_the_critic_comes_first_and_the_generator_meets_the_updated_critic(loss, expected):
    bounded = {"gradient_penalty": 10.0} if loss == "wasserstein" else {}
    model = Gan(GanConfig(loss=loss, **bounded, **SMALL), GREY).train()
    pairs = model.losses(BATCH, noise_for(BATCH))
    assert next(pairs).part == "critic"
    zeroed_critic(model)
    part, value, *_ = next(pairs)
    assert part == "generator"
    assert value.item() == pytest.approx(expected, abs=1e-3)  # the loss at logits of 0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("non_saturating", 2 * math.log(2)), ("hinge", 2.0), ("least_squares", 0.5)],
)
def test_a_critic_that_knows_nothing_has_the_losss_own_value(loss, expected):
    model = Gan(GanConfig(loss=loss, **SMALL), GREY).train()
    zeroed_critic(model)
    value = next(model.losses(BATCH, noise_for(BATCH))).value
    assert value.item() == pytest.approx(expected, abs=1e-3)


def test_the_gradient_penalty_of_a_flat_critic_is_its_weight():
    model = Gan(GanConfig(loss="wasserstein", gradient_penalty=10.0, **SMALL), GREY).train()
    zeroed_critic(model)
    value = next(model.losses(BATCH, noise_for(BATCH))).value
    assert value.item() == pytest.approx(10.0, abs=1e-3)  # (0 - 1)^2 times 10


def test_r1_is_half_its_weight_times_the_squared_slope():
    torch.manual_seed(0)
    model = Gan(GanConfig(r1=2000.0, network="fully_connected", **SMALL), GREY).train()
    torch.manual_seed(0)
    plain = Gan(GanConfig(network="fully_connected", **SMALL), GREY).train()
    plain.load_state_dict(model.state_dict())
    values = [next(m.losses(BATCH, noise_for(BATCH))).value.item() for m in (model, plain)]
    real = (BATCH["images"].float() / 127.5 - 1).requires_grad_()
    [slopes] = torch.autograd.grad(model.critic(real, None)[0].sum(), real)
    expected = 0.5 * 2000.0 * slopes.square().sum(dim=(1, 2, 3)).mean().item()
    assert values[0] - values[1] == pytest.approx(expected, abs=1e-6, rel=1e-3)


def test_a_bounded_critic_judges_each_row_by_itself():
    for settings in ({"spectral_norm": True}, {"r1": 1.0}, {"network": "residual"}):
        critic = Gan(GanConfig(**settings, **SMALL), GREY).critic.train()
        images = torch.randn(4, 1, 8, 8)
        critic.eval()  # spectral norm's own iteration stands still
        together, _ = critic(images, None)
        alone = torch.cat([critic(image[None], None)[0] for image in images])
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("network", ["convolutional", "residual"])
def test_spectral_norm_bounds_every_layer(network):
    settings = {"spectral_norm": True, "generator_spectral_norm": True, "network": network}
    model = Gan(GanConfig(**settings, **SMALL), GREY).train()
    for _ in range(20):
        model.critic(torch.randn(4, 1, 8, 8), None)
        model.generator(torch.randn(4, 4), None)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            side = 1 if isinstance(module, torch.nn.ConvTranspose2d) else 0
            matrix = module.weight.movedim(side, 0).flatten(1)
            norm = torch.linalg.matrix_norm(matrix, ord=2)
            assert norm.item() == pytest.approx(1.0, abs=0.15)


def test_the_gradient_penalty_meets_images_as_the_critic_is_shown_them():
    settings = {"loss": "wasserstein", "gradient_penalty": 10.0, "augmentations": ("cutout",)}
    model, seen = Gan(GanConfig(**settings, **SMALL), GREY).train(), []
    model.critic.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    next(model.losses(BATCH, noise_for(BATCH)))
    assert len(seen) == 3
    assert all((images == 0).flatten(1).sum(dim=1).min() >= 4 for images in seen)


def test_separation_is_the_share_of_pairs_ranked_rightly():
    assert separation(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])) == 0.75
    assert separation(torch.tensor([5.0]), torch.tensor([1.0, 2.0])) == 1


def test_each_code_is_set_by_its_control_and_else_drawn_from_the_seed():
    model = Gan(GanConfig(categorical_codes=(3, 2), continuous_codes=2, **SMALL), GREY)
    assert set(model.controls()) == {
        *("truncation", "category_1", "category_2", "code_1", "code_2"),
    }
    codes = model.codes.from_request(
        SampleRequest(1, controls={"category_1": 2, "category_2": 0, "code_2": 0.5})
    )
    assert codes[:5].tolist() == [0, 0, 1, 1, 0]
    assert codes[6] == 0.5
    again = model.codes.from_request(SampleRequest(1))
    assert torch.equal(again, model.codes.from_request(SampleRequest(1)))
    with pytest.raises(ModelError, match="whole number"):
        model.check(SampleRequest(0, controls={"category_1": 0.5}))


def test_the_information_of_right_and_of_blind_predictions_is_all_and_none():
    model = Gan(GanConfig(categorical_codes=(4,), **SMALL), GREY)
    codes = torch.eye(4)
    right, _ = model.codes.nll(100 * codes, codes)
    blind, _ = model.codes.nll(torch.zeros(4, 4), codes)
    assert right.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert model.codes.entropy() - blind.mean().item() == pytest.approx(0.0, abs=1e-6)


def test_standardised_codes_have_the_scale_of_noise():
    model = Gan(GanConfig(categorical_codes=(10, 2), continuous_codes=2, **SMALL), GREY)
    codes = model.codes.standardise(model.codes.sample(Noise(0, batch_size=20_000)))
    assert codes.mean(dim=0).tolist() == pytest.approx([0.0] * 14, abs=0.05)
    assert codes.std(dim=0).tolist() == pytest.approx([1.0] * 14, abs=0.05)


def test_the_generator_meets_standardised_codes_in_training_and_in_sampling():
    model = Gan(GanConfig(categorical_codes=(10,), **SMALL), GREY)
    met = []
    model.generator.register_forward_pre_hook(lambda _, given: met.append(given[0]))
    next(model.losses(BATCH, noise_for(BATCH)))
    model.sample([SampleRequest(seed) for seed in range(4)])
    for codes in met:
        block = codes[:, SMALL["latent_dim"] :]
        assert sorted(block[0].tolist()) == pytest.approx([-1 / 3] * 9 + [3.0])
    assert len(met) == 2


def test_both_kinds_of_codes_count_by_their_own_weights():
    both = {"categorical_codes": (3,), "continuous_codes": 1}
    losses = []
    for weights in ((0, 0), (1, 0), (0, 1), (2, 3)):
        config = GanConfig(
            code_weight=weights[0], continuous_code_weight=weights[1], **both, **SMALL
        )
        torch.manual_seed(0)
        model = Gan(config, GREY).train()
        losses.append(next(model.losses(BATCH, noise_for(BATCH))).value.item())
    game, categorical, continuous, all_of_it = losses
    assert categorical - game == pytest.approx(math.log(3), rel=0.2)  # of a critic that knows none
    assert continuous > game
    expected = game + 2 * (categorical - game) + 3 * (continuous - game)
    assert all_of_it == pytest.approx(expected, rel=1e-4)


def test_truncated_noise_stays_within_its_bound_and_keeps_its_order():
    model = Gan(GanConfig(**{**SMALL, "latent_dim": 1000}), GREY)
    plain = model._latent(SampleRequest(3))
    for bound in (0.0, 0.5, 2.0):
        cut = model._latent(SampleRequest(3, controls={"truncation": bound}))
        assert cut.abs().max() <= bound
        assert bool((cut[plain.argsort()].diff() >= 0).all())


@pytest.mark.parametrize("kinds", [("color",), ("translation",), ("cutout",)])
def test_augmentation_changes_images_differently_and_lets_gradients_through(kinds):
    images = torch.rand(6, 3, 16, 16).mul(2).sub(1).requires_grad_()
    changed = augment(images, kinds, Noise(0, batch_size=6))
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
    differences = {tuple(row) for row in (changed - images).flatten(1).tolist()}
    assert len(differences) >= 5  # two may by chance be cut or moved alike
    [gradient] = torch.autograd.grad(changed.sum(), images)
    assert gradient.abs().sum() > 0
    assert augment(images, (), Noise(0, batch_size=6)) is images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "wasserstein"}, "gradient_penalty to 10"),
        ({"categorical_codes": (1,)}, "at least 2"),
        ({"network": "fully_connected", "label_in": "norm"}, "convolutional or residual"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_what_to_do(settings, message):
    with pytest.raises(ValidationError, match=message):
        GanConfig(**settings)


@pytest.mark.parametrize(("height", "width"), [(30, 30), (28, 32), (2, 2)])
def test_sizes_that_do_not_fit_name_the_flag_and_the_nearest_size(height, width):
    shape = ImageShape(channels=1, height=height, width=width)
    for network in ("convolutional", "residual"):
        with pytest.raises(ModelError, match=r"--data\.image\.size \d+"):
            Gan(GanConfig(network=network), shape)
    if height > 2:
        assert Gan(GanConfig(network="fully_connected", **SMALL), shape)


def test_data_without_labels_trains_an_unconditional_model():
    data = ImageData(BATCH["images"], None, GREY)
    assert Gan.from_data(GanConfig(**SMALL), data).examples(data).keys() == {"images"}


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("side", [28, 128])
def test_a_critic_without_batch_norm_begins_with_features_that_differ(width, side):
    torch.manual_seed(0)
    shape = ImageShape(channels=1, height=side, width=side, class_names=())
    critic = Gan(GanConfig(r1=1.0, critic_width=width), shape).critic
    with torch.no_grad():
        features = critic.downward(2 * torch.rand(8, 1, side, side) - 1)
    assert features.std(dim=0).mean() > 0.05

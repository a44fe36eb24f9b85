"""Laws that every family of images keeps."""

from pathlib import Path

import pytest
import torch

from aigc_ops import sampling
from aigc_ops.artifacts import ImageShape
from aigc_ops.checkpoints import load_model, write_folder, write_model
from aigc_ops.errors import CheckpointError, ModelError
from aigc_ops.generative import ImageData, SampleRequest, sample_seeds
from aigc_ops.models import family_names, family_type
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.vae import Vae, VaeConfig

CONFIGS = [
    GanConfig(latent_dim=4, generator_width=4, critic_width=4),
    VaeConfig(latent_dim=4, width=4),
    VaeConfig(latent_dim=4, width=4, likelihood="gaussian"),
]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.family)
each_shape = pytest.mark.parametrize(
    "shape",
    [
        ImageShape(channels=1, height=28, width=28, class_names=("a", "b", "c")),
        ImageShape(channels=3, height=32, width=32),
        ImageShape(channels=3, height=8, width=8, class_names=("only",)),
    ],
    ids=["28 grey labelled", "32 colour", "8 one class"],
)


def make(config, shape):
    torch.manual_seed(0)
    model = family_type(config.family)(config, shape)
    return model.eval()


@each_config
@each_shape
@pytest.mark.parametrize("num", [0, 1, 5])
def test_samples_have_the_datas_own_shape_and_range(config, shape, num):
    model = make(config, shape)
    images = sampling.draw(model, sampling.requests(model, num, seed=1))
    assert images.shape == (num, shape.channels, shape.height, shape.width)
    assert images.dtype == torch.uint8


@each_config
@each_shape
def test_a_sample_is_the_same_alone_and_among_others(config, shape):
    model = make(config, shape)
    asked = sampling.requests(model, 7, seed=5)
    together = sampling.draw(model, asked).int()
    for index, request in enumerate(asked):
        alone = sampling.draw(model, [request]).int()
        assert (alone[0] - together[index]).abs().max() <= 1


@each_config
def test_other_seeds_give_other_samples(config):
    model = make(config, ImageShape(channels=1, height=28, width=28))
    with torch.no_grad():  # the first weights are too small for a level of 255 to differ
        for parameter in model.parameters():
            parameter.mul_(20)
    one, other = (sampling.draw(model, [SampleRequest(seed=s)]) for s in (1, 2))
    assert not torch.equal(one, other)


@each_config
@each_shape
def test_a_stored_model_draws_the_same_samples(config, shape, tmp_path):
    model = make(config, shape)
    write_folder(tmp_path / "model", lambda folder: write_model(model, folder))
    loaded = load_model(tmp_path / "model")
    asked = sampling.requests(model, 4, seed=9)
    assert torch.equal(sampling.draw(model, asked), sampling.draw(loaded, asked))


@each_config
@each_shape
def test_gradients_reach_every_parameter_of_the_part_that_a_loss_names(config, shape):
    model = make(config, shape).train()
    batch = {"images": torch.randint(0, 256, (4, shape.channels, shape.height, shape.width))}
    if shape.num_classes:
        batch["labels"] = torch.arange(4) % shape.num_classes
    named = []
    for part, loss in model.losses(batch, torch.Generator().manual_seed(0)):
        named.append(part)
        assert loss.ndim == 0
        parameters = dict(model.parts()[part].named_parameters())
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            assert gradient is not None, f"{part}.{name}"
            assert gradient.isfinite().all(), f"{part}.{name}"
    assert named == list(model.parts())


@each_config
def test_labels_outside_the_classes_and_prompts_are_refused(config):
    model = make(config, ImageShape(channels=1, height=8, width=8, class_names=("a", "b")))
    for request in (
        SampleRequest(seed=0, label=2),
        SampleRequest(seed=0, label=-1),
        SampleRequest(seed=0),
        SampleRequest(seed=0, label=0, prompt="hello"),
    ):
        with pytest.raises(ModelError):
            model.check(request)


@each_config
@pytest.mark.parametrize(("height", "width"), [(30, 30), (28, 32), (2, 2)])
def test_sizes_that_do_not_fit_name_the_flag_and_the_nearest_size(config, height, width):
    with pytest.raises(ModelError, match=r"--data\.image-size \d+"):
        make(config, ImageShape(channels=1, height=height, width=width))


@each_config
def test_a_changed_weight_is_refused_by_its_digest(config, tmp_path):
    model = make(config, ImageShape(channels=1, height=8, width=8))
    write_folder(tmp_path / "model", lambda folder: write_model(model, folder))
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path / "model")


def test_every_file_in_the_models_folder_is_a_family_named_after_it():
    folder = Path(family_type("gan").__module__.replace(".", "/")).parent
    assert folder.name == "models"
    for name in family_names():
        assert family_type(name).config_type.model_fields["family"].default == name


def test_an_unknown_family_is_answered_with_the_nearest_name():
    with pytest.raises(ModelError, match="did you mean gan"):
        family_type("gna")


def test_the_seeds_of_a_call_begin_with_its_own_and_never_repeat():
    seeds = sample_seeds(5, 10_000)
    assert seeds[0] == 5
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert not set(sample_seeds(6, 10_000)) & set(seeds)


def test_the_gan_yields_its_critic_first_and_the_generator_meets_the_updated_critic():
    shape = ImageShape(channels=1, height=8, width=8)
    model = Gan(CONFIGS[0], shape).train()
    batch = {"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}
    pairs = model.losses(batch, torch.Generator().manual_seed(0))
    assert next(pairs)[0] == "critic"
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.zero_()
    part, loss = next(pairs)
    assert part == "generator"
    assert loss.item() == pytest.approx(0.6931, abs=1e-3)  # softplus(0): a critic of zeros


def test_the_vae_at_beta_zero_ignores_the_divergence():
    shape = ImageShape(channels=1, height=8, width=8)
    batch = {"images": torch.full((4, 1, 8, 8), 200, dtype=torch.uint8)}
    values = []
    for beta in (0.0, 1.0):
        torch.manual_seed(0)
        model = Vae(VaeConfig(latent_dim=4, width=4, beta=beta), shape).train()
        [(_, loss)] = model.losses(batch, torch.Generator().manual_seed(0))
        values.append(loss.item())
    assert values[1] > values[0] > 0


def test_data_without_labels_trains_an_unconditional_model():
    data = ImageData(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
        None,
        ImageShape(channels=1, height=8, width=8),
    )
    model = Gan.from_data(CONFIGS[0], data)
    assert model.examples(data).keys() == {"images"}

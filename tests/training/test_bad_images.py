"""`aigc-ops validate` and `aigc-ops train` on folders of unusual images."""

from io import BytesIO

import numpy as np
import pytest
import yaml
from PIL import Image

from aigc_ops.cli import pipeline_commands
from aigc_ops.cli.parser import parser
from aigc_ops.core.errors import AigcOpsError, CheckpointError, TrainingError
from aigc_ops.interfaces.optimizer import AdamConfig
from tests.training.runs import GAN, VAE, run


def image(seed, width=8, height=8, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(picture, kind="PNG", **options):
    picture.save(file := BytesIO(), kind, **options)
    return file.getvalue()


def sound(num, **size):
    return {f"{i:02d}.png": encoded(image(i, **size)) for i in range(num)}


ANIMATED = encoded(image(1), "GIF", save_all=True, append_images=[image(2)])
DEEP = encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900))
MIXED_MODES = {f"{mode}.png": encoded(image(50, mode=mode)) for mode in ("L", "P", "RGBA", "1")}
MIXED_SIZES = {**sound(12), "wide.png": encoded(image(60, 16, 9))}


SMALL = {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """MLflow's migrations take seconds: made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def both(home, shared_home, tmp_path, monkeypatch):
    """Exit code and message of validation and of training."""
    monkeypatch.setenv("AIGC_OPS_HOME", str(shared_home))

    def call(files, **data):
        for name, content in files.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        data = {"path": str(tmp_path / "images"), "heldout_fraction": 0.3, **data}
        config = {"data": data, "model": SMALL, "training": {"steps": 2, "batch_size": 16}}
        path = tmp_path / "bad.yaml"
        path.write_text(yaml.safe_dump(config))
        answers = []
        for command in ("validate", "train"):
            try:
                arguments, flags = parser().parse_known_args([command, str(path)])
                pipeline_commands.COMMANDS[command](arguments, flags)
                answers.append((0, ""))
            except AigcOpsError as error:  # what `main` prints before it exits with 1
                answers.append((1, str(error)))
        return answers

    return call


@pytest.mark.parametrize(
    ("files", "data"),
    [
        (sound(5), {}),  # fewer than a batch of 16: an epoch lies within one
        ({f"cats/{name}": content for name, content in sound(12).items()}, {}),  # one class
        ({**sound(12), **MIXED_MODES}, {}),
        (MIXED_SIZES, {"image": {"size": 8}}),
    ],
    ids=["few", "one class", "modes", "sizes"],
)
def test_unusual_images_are_valid_and_trained_on(both, files, data):
    for code, told in both(files, **data):
        assert code == 0, told


@pytest.mark.parametrize(
    ("files", "of_validation", "of_training"),
    [
        (MIXED_SIZES, "every image is 8x8 as the first (data.image.size", "set data.image.size"),
        (
            {**sound(12), "x.jpg": encoded(image(1, mode="CMYK"), "JPEG")},
            "x.jpg (mode CMYK)",
            "x.jpg: mode CMYK is not one of 1, L, LA, RGB, RGBA, P; convert it to 8-bit RGB",
        ),
        ({**sound(12), "x.png": DEEP}, "x.png (mode I;16)", "x.png: mode I;16 is not one of"),
        ({**sound(12), "x.gif": ANIMATED}, "x.gif (num_frames 2)", "x.gif: animated (2 frames)"),
    ],
    ids=["sizes", "CMYK", "16 bit", "animated"],
)
def test_what_is_refused_is_named_by_both(both, files, of_validation, of_training):
    # Next to nothing is held out: training reads no other rows.
    (code, told), (train_code, train_told) = both(files, heldout_fraction=0.001)
    assert (code, train_code) == (1, 1)
    assert of_validation in told
    assert of_training in train_told


def test_images_that_are_not_square_are_valid_but_want_another_network(both):
    (code, _), (train_code, told) = both(sound(12, width=12))
    assert (code, train_code) == (0, 1)
    assert "images of 8 x 12 pixels do not fit" in told
    assert "--data.image.size 8" in told


def test_a_single_image_lacks_one_to_hold_out_and_can_be_trained_on_all_the_same(both):
    (code, told), (train_code, train_told) = both(sound(1), heldout_fraction=0.1)
    assert code == 1
    assert "the heldout split has at least 1 row (data.heldout_fraction takes more" in told
    assert train_code == 0, train_told


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (VAE, r"model\.family is 'gan' in this folder and 'vae' in the config"),
        (
            GAN.model_copy(update={"latent_dim": 6, "generator_width": 8}),
            r"model\.latent_dim is 4 there and 6 here, model\.generator_width is 4 .* 8 here;",
        ),
    ],
    ids=["family", "config"],
)
def test_first_weights_of_another_model_are_refused_field_by_field(other, told, tmp_path):
    first = run(GAN, tmp_path / "first", steps=1)
    with pytest.raises(CheckpointError, match=told):
        run(other, tmp_path / "second", steps=1, initial=first)


def test_first_weights_need_no_equal_optimiser(tmp_path):
    first = run(GAN, tmp_path / "first", steps=1)
    slower = GAN.model_copy(update={"critic": AdamConfig(learning_rate=1e-5)})
    assert run(slower, tmp_path / "second", steps=1, initial=first).step == 1


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"micro_batches": 6}])
def test_batch_norm_over_single_rows_is_told_in_plain_words(settings, tmp_path):
    dense = GAN.model_copy(update={"network": "fully_connected"})
    with pytest.raises(
        TrainingError, match=r"raise training\.batch_size, or lower training\.micro"
    ):
        run(dense, tmp_path, steps=1, **settings)

"""Interpolations and reconstructions: what `aigc-ops sample` makes of latent codes."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_ops.__main__ import main
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.row import Row
from aigc_ops.laws.cases import Case
from aigc_ops.laws.runs import trained
from aigc_ops.modalities.image.codec import ImageCodec
from aigc_ops.modalities.image.reconstruction import ImageReconstruction
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.gpt import GptConfig
from aigc_ops.models.vae import Vae, VaeConfig
from aigc_ops.sampling.latents import Reconstruction, frames, interpolate
from aigc_ops.sampling.metadata import ModelRef, read_sample_metadata
from aigc_ops.sampling.sampler import generate, requests
from tests.conftest import striped_digits

GAN = GanConfig(latent_dim=4, generator_width=4, critic_width=4)
VAE = VaeConfig(latent_dim=4, width=4)
CODES = GAN.model_copy(update={"categorical_codes": (3,), "continuous_codes": 2})
SHAPE = ImageShape(channels=1, height=8, width=8, class_names=("a", "b"))


def model_of(config: GanConfig | VaeConfig) -> Gan | Vae:
    torch.manual_seed(0)
    model = Gan(config, SHAPE) if isinstance(config, GanConfig) else Vae(config, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def ends(model, *, label: int = 1, **controls: float):
    return [
        requests(model, 1, seed=seed, conditions={"label": label}, controls=controls)[0]
        for seed in (3, 4)
    ]


@pytest.mark.parametrize(
    ("config", "controls"),
    [
        (GAN, {}),
        (GAN, {"truncation": 0.5}),
        (CODES, {}),
        (CODES, {"category_1": 2}),
        (VAE, {}),
        (VAE, {"temperature": 0.5, "latent_1": 2.0}),
    ],
)
def test_an_interpolation_ends_in_the_samples_of_its_seeds_with_label_and_controls(
    config, controls
):
    model = model_of(config)
    start, end = ends(model, **controls)
    path = interpolate(model, start, end, 6)
    assert path.shape == (6, 1, 8, 8)
    assert path.dtype == torch.uint8
    drawn = generate(model, [start, end])
    for sample, found in zip(drawn, (path[0], path[-1]), strict=True):
        assert (sample.int() - found.int()).abs().max() <= 1
    steps = (path[1:].int() - path[:-1].int()).abs().sum(dim=(1, 2, 3))
    assert (steps > 0).all()  # it moves on with every image
    other = interpolate(model, *ends(model, label=0, **controls), 6)
    assert not torch.equal(path, other)


def test_a_control_stays_the_same_all_the_way(monkeypatch):
    model = model_of(VAE)
    seen = []
    decode = model._decode

    def watched(codes, labels):
        seen.append(codes)
        return decode(codes, labels)

    monkeypatch.setattr(model, "_decode", watched)
    interpolate(model, *ends(model, latent_2=1.5), 5)
    assert seen[0][:, 1].tolist() == [1.5] * 5
    assert len(set(seen[0][:, 0].tolist())) == 5


@pytest.mark.parametrize("num", [-1, 0, 1, 257])
def test_a_path_has_two_ends_and_a_bounded_length(num):
    model = model_of(GAN)
    with pytest.raises(ModelError, match="from 2 to 256"):
        interpolate(model, *ends(model), num)


def test_only_the_ends_are_samples_of_a_seed_alone():
    start, end = ends(model_of(GAN))
    asked, places = frames(start, end, 3)
    assert [request.seed for request in asked] == [3, 3, 4]
    assert places == [{}, {"to_seed": 4, "share": 0.5}, {}]


def test_the_error_is_that_of_all_pixels():
    hooks = ImageReconstruction()
    samples = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    made = samples.clone()
    made[1] += 10  # a mean squared error of 0 and of 100, of 50 over all pixels
    errors = hooks.errors(samples, made)
    assert errors == [0, 100]
    assert hooks.score(errors) == pytest.approx(10 * math.log10(255**2 / 50))
    assert hooks.score([0.0]) is None


class Known(Vae):
    """Reconstructions are the images, a level darker."""

    def reconstruct(self, samples, requests):
        assert len(samples) == len(requests)
        return samples - 1


def write_picture(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    level = 40 if mode == "L" else (10, 200, 30)
    Image.new(mode, size, level).save(path)


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), int)


def lines_of(out: Path) -> list[dict]:
    text = (out / "reconstructions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_two_sources_never_share_a_file(tmp_path):
    model = Known(VAE, SHAPE.model_copy(update={"class_names": ()}))
    content = ImageCodec().encode(torch.full((1, 8, 8), 7, dtype=torch.uint8))
    names = ["a/1.jpg", "a/1.jpg.png", "a/1.png", "a/1.png.png", "t.parquet row 1"]
    origin = ModelRef(manifest_digest="0" * 64)
    made = Reconstruction(model, ImageReconstruction(), origin)
    made.write([(Row(name, content), None) for name in names], tmp_path / "out")
    rows = lines_of(tmp_path / "out")
    assert [row["source"] for row in rows] == names
    files = [row["file"] for row in rows]
    assert len({*files}) == len(names)
    assert files[0] == "reconstructions/a/1.png"
    assert files[-1] == "reconstructions/t.parquet row 1.png"
    for file in files:
        assert pixels(tmp_path / "out" / file).tolist() == [[6] * 8] * 8
    assert made.score == pytest.approx(10 * math.log10(255**2))


# The command line, on trained checkpoints.


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    digits = striped_digits(16)
    data = {"gan": (GAN, digits), "vae": (VAE, digits)}
    gpt = GptConfig(tokenizer="bytes", num_layers=1, num_heads=2, width=16)
    data["gpt"] = (gpt, TextData(["four"] * 8, ["two?"] * 8))
    return {
        name: trained(Case(config, split), folder / name, steps=1).uri
        for name, (config, split) in data.items()
    }


def call(capfd: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> dict:
    standard = os.dup(1)  # which `main` redirects for the rest of its process
    try:
        found = main([*map(str, argv), "--json"])
    finally:
        os.dup2(standard, 1)
        os.close(standard)
    output, said = capfd.readouterr()
    assert found == code, said
    answer: dict = json.loads(output)
    return answer


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_sample_writes_an_interpolation(family, checkpoints, capfd, tmp_path):
    model, out = checkpoints[family], tmp_path / "path"
    answer = call(
        capfd, "sample", model, "--interpolate", 3, 4, "--label", 1, "--num", 5, "--out", out
    )
    assert (answer["num"], answer["seeds"]) == (5, [3, 4])
    names = sorted(path.name for path in out.iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(5)), "interpolation.png", "samples.jsonl"]
    assert pixels(answer["picture"]).shape == (66 + 2, 5 * 66 + 2)
    for file, seed in (("00000.png", 3), ("00004.png", 4)):
        call(capfd, "sample", model, "--seed", seed, "--label", 1, "--out", tmp_path / "one")
        one, frame = pixels(tmp_path / "one/00000.png"), pixels(out / file)
        assert abs(one - frame).max() <= 1
        # An end is a sample like another, and says so.
        assert (out / file).read_bytes().count(b"interpolation") == 0
    note = read_sample_metadata(out / "00001.png")
    assert (note.seed, note.label) == (3, 1)
    assert note.conditions == {"interpolation": {"to_seed": 4, "share": 0.25}}
    # A later call replaces it, the picture too.
    call(capfd, "sample", model, "--interpolate", 3, 4, "--out", out)
    assert len(list(out.glob("0*.png"))) == 8
    call(capfd, "sample", model, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "samples.jsonl"]


def pictures(folder: Path) -> Path:
    write_picture(folder / "0" / "round.png")
    write_picture(folder / "1" / "wide.bmp", size=(20, 10), mode="RGB")
    (folder / "README.md").write_text("digits")
    return folder


def test_sample_writes_reconstructions_of_pictures_in_the_models_size(checkpoints, capfd, tmp_path):
    folder, out = pictures(tmp_path / "mine"), tmp_path / "out"
    answer = call(capfd, "sample", checkpoints["vae"], "--reconstruct", folder, "--out", out)
    assert answer["num"] == answer["num_rows"] == 2
    assert answer["labels_from"] == "sub-folders"
    assert answer["unread"][0]["examples"] == ["README.md"]
    assert "peak signal-to-noise ratio" in answer["definition"]
    green = Image.new("RGB", (1, 1), (10, 200, 30)).convert("L").getpixel((0, 0))
    originals = [np.full((8, 8), level) for level in (40, green)]
    made = [pixels(out / "reconstructions" / name) for name in ("0/round.png", "1/wide.png")]
    error = np.mean([(a - b) ** 2 for a, b in zip(originals, made, strict=True)])
    assert answer["psnr"] == pytest.approx(10 * math.log10(255**2 / error))
    rows = lines_of(out)
    assert [(row["source"], row["label"]) for row in rows] == [
        ("0/round.png", 0),
        ("1/wide.bmp", 1),
    ]
    # Beside one another: the sources are the first and the third picture.
    sheet = pixels(answer["picture"])
    assert sheet.shape == (68, 4 * 66 + 2)
    assert [sheet[30, 30 + 66 * index] for index in (0, 2)] == [40, green]
    note = read_sample_metadata(out / "reconstructions/1/wide.png")
    assert (note.seed, note.label) == (None, 1)
    assert note.conditions == {"reconstruction_of": "1/wide.bmp"}
    call(capfd, "sample", checkpoints["vae"], "--reconstruct", folder, "--out", out, code=1)


def test_a_label_for_all_pictures_replaces_their_folders(checkpoints, capfd, tmp_path):
    write_picture(tmp_path / "mine" / "a.png")
    words = ("sample", checkpoints["vae"], "--reconstruct", tmp_path / "mine", "--out")
    refused = call(capfd, *words, tmp_path / "out", code=1)
    assert "(0, 1)" in refused["error"]
    assert "--label" in refused["error"]
    call(capfd, *words, tmp_path / "labelled", "--label", 1)
    [row] = lines_of(tmp_path / "labelled")
    assert row["label"] == 1


def test_a_damaged_picture_and_too_many_unread_ones_are_named(checkpoints, capfd, tmp_path):
    folder = pictures(tmp_path / "mine")
    (folder / "0" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("sample", checkpoints["vae"], "--reconstruct", folder, "--out")
    refused = call(capfd, *words, tmp_path / "a", code=1)
    assert "0/cut.png: " in refused["error"]
    assert "repair or remove it" in refused["error"]
    (folder / "0" / "cut.png").unlink()
    (folder / "more.zip").write_bytes(b"zip")
    refused = call(capfd, *words, tmp_path / "b", code=1)
    assert "more.zip" in refused["error"]
    assert "--allow-unread" in refused["error"]
    answer = call(capfd, *words, tmp_path / "c", "--allow-unread")
    assert answer["num"] == 2


@pytest.mark.parametrize(
    ("family", "words", "able"),
    [
        ("gpt", ("--interpolate", "1", "2"), "gan, vae"),
        ("gpt", ("--reconstruct", "."), "vae"),
        ("gan", ("--reconstruct", "."), "vae"),
    ],
)
def test_a_family_that_cannot_is_refused_with_those_that_can(
    family, words, able, checkpoints, capfd, monkeypatch, tmp_path
):
    monkeypatch.setattr("aigc_ops.storage.checkpoints.load_model", None)  # it is not loaded
    refused = call(capfd, "sample", checkpoints[family], *words, "--out", tmp_path / "out", code=1)
    assert f"family {family} cannot {words[0][2:]}; these families can: {able}" in refused["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--interpolate", "1", "2", "--reconstruct", "."),
        ("--interpolate", "1", "2", "--seed", "0"),
        ("--interpolate", "1", "2", "--prompt", ""),
        ("--interpolate", "1", "2", "--stop", "a"),
        ("--allow-unread", "--interpolate", "1", "2"),
        ("--reconstruct", ".", "--num", "1"),
        ("--reconstruct", ".", "--seed", "0"),
        ("--reconstruct", ".", "--set", "truncation=1"),
        ("--reconstruct", "", "--prompt", "a"),
        ("--allow-unread",),
        ("--interpolate", "1"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(words, capfd):
    refused = call(capfd, "sample", "nowhere", *words, "--out", "out", code=2)
    assert words[0] in refused["error"]


def test_a_seed_that_is_none_is_refused(checkpoints, capfd, tmp_path):
    words = ("--interpolate", -1, 2, "--out", tmp_path / "out")
    assert "seed is -1" in call(capfd, "sample", checkpoints["gan"], *words, code=1)["error"]


def test_the_help_shows_both_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    shown = capsys.readouterr().out
    assert "--interpolate 1 9 --label 3 --out" in shown
    assert "--reconstruct FOLDER --out" in shown


def test_a_modality_without_hooks_has_none():
    assert find_modality("text").reconstruction is None
    assert find_modality("image").reconstruction is not None

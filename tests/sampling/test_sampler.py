"""Asking for samples, drawing them, and the folder they are written to."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from aigc_ops.compute.random import MAX_SEED, sample_seeds
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import CheckpointError, ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.pictures import grid, to_pil
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.sampling.files import GOLDEN, STAGING, read_golden, read_samples, write_samples
from aigc_ops.sampling.sampler import class_label, generate, generate_timed, requests

CONFIG = GanConfig(latent_dim=4, generator_width=4, critic_width=4)


def small_gan(*, num_classes: int = 3, channels: int = 1) -> Gan:
    names = tuple(str(label) for label in range(num_classes))
    torch.manual_seed(0)
    return Gan(CONFIG, ImageShape(channels=channels, height=8, width=8, class_names=names))


@pytest.fixture(scope="module")
def gan() -> Gan:
    return small_gan()


@pytest.fixture(scope="module")
def gpt() -> Gpt:
    torch.manual_seed(0)
    config = GptConfig(tokenizer="bytes", num_layers=1, num_heads=2, width=16, max_new_tokens=8)
    return Gpt.from_data(config, TextData(["four"], ["two and two?"]))


def test_requests_of_a_conditional_model_go_round_its_classes(gan: Gan) -> None:
    asked = requests(gan, 5, seed=11)
    assert [request.conditions["label"] for request in asked] == [0, 1, 2, 0, 1]
    assert [request.seed for request in asked] == sample_seeds(11, 5)
    assert asked[0].seed == 11


def test_a_given_label_is_that_of_every_request(gan: Gan) -> None:
    assert {
        request.conditions["label"] for request in requests(gan, 4, seed=0, conditions={"label": 2})
    } == {2}


def test_an_unconditional_model_is_asked_without_labels() -> None:
    assert requests(small_gan(num_classes=0), 2, seed=0)[1].conditions == {}


def test_several_prompts_are_gone_round_and_one_is_repeated(gpt: Gpt) -> None:
    asked = requests(gpt, 3, seed=0, conditions=[{"prompt": "a"}, {"prompt": "b"}])
    assert [request.conditions["prompt"] for request in asked] == ["a", "b", "a"]
    assert [
        request.conditions["prompt"]
        for request in requests(gpt, 2, seed=0, conditions={"prompt": "hi"})
    ] == ["hi", "hi"]


def test_a_number_or_seed_out_of_bounds_is_refused_with_the_bounds(gan: Gan) -> None:
    with pytest.raises(ModelError, match="num is -1; give a number of samples from 0 to"):
        requests(gan, -1, seed=0)
    with pytest.raises(ModelError, match="from 0 to 4"):
        requests(gan, 5, seed=0, max_num=4)
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(ModelError, match="seed is"):
            requests(gan, 1, seed=seed)


def test_a_class_is_known_by_its_number_and_by_its_name() -> None:
    shape = ImageShape(channels=1, height=8, width=8, class_names=("cat", "1", "0"))
    model = Gan(GanConfig(latent_dim=4, generator_width=4, critic_width=4), shape)
    assert [class_label(model, word) for word in ("0", "1", "2", "cat")] == [0, 1, 2, 0]
    for word in ("3", "-1", "Cat", ""):
        with pytest.raises(ModelError, match=r"not a class; the classes are 0 \(cat\), 1 \(1\)"):
            class_label(model, word)
    with pytest.raises(ModelError, match="has no classes"):
        class_label(small_gan(num_classes=0), "0")


def test_a_label_that_the_model_lacks_is_refused(gan: Gan) -> None:
    with pytest.raises(ModelError, match=r"label 3 is outside 0\.\.2"):
        requests(gan, 1, seed=0, conditions={"label": 3})


def test_controls_are_those_of_every_request_and_written_only_when_given(
    gan: Gan, tmp_path: Path
) -> None:
    asked = requests(gan, 2, seed=0, controls={"truncation": 0.5})
    assert [request.controls for request in asked] == [{"truncation": 0.5}] * 2
    assert not torch.equal(generate(gan, asked), generate(gan, requests(gan, 2, seed=0)))
    write_samples(find_modality(gan.modality), generate(gan, asked), asked, tmp_path)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["controls"] for line in lines] == [{"truncation": 0.5}] * 2
    assert read_samples(find_modality("image"), tmp_path)[0] == asked


def test_a_control_that_the_model_lacks_is_answered_with_those_it_has_and_their_ranges() -> None:
    names = tuple(str(label) for label in range(3))
    shape = ImageShape(channels=1, height=8, width=8, class_names=names)
    config = CONFIG.model_copy(update={"categorical_codes": (10,), "continuous_codes": 3})
    model = Gan(config, shape)
    known = (
        r"truncation \(0 to 4\), category_1 \(0 to 9, a whole number\), code_1 … code_3 \(-2 to 2\)"
    )
    with pytest.raises(ModelError, match=f"'slant' is not a control; choose from {known}$"):
        requests(model, 1, seed=0, controls={"slant": 1.0})
    for value in (0.5, 10.0, -1.0):
        with pytest.raises(ModelError, match=r"category_1 is .*; give 0 to 9, a whole number"):
            requests(model, 1, seed=0, controls={"category_1": value})


def test_a_model_without_controls_says_so(gpt: Gpt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "controls", dict)
    with pytest.raises(ModelError, match="'truncation' is not a control; this model has none"):
        requests(gpt, 1, seed=0, controls={"truncation": 1.0})


def test_samples_do_not_depend_on_the_batch_they_were_drawn_in(gan: Gan) -> None:
    asked = requests(gan, 7, seed=5)
    together = generate(gan, asked)
    assert together.shape == (7, 1, 8, 8)
    assert together.dtype == torch.uint8
    assert torch.equal(together, generate(gan, asked, batch_size=2))
    assert torch.equal(together[3:4], generate(gan, asked[3:4]))


def test_drawing_leaves_the_model_in_the_mode_it_was_in(gan: Gan) -> None:
    gan.train()
    in_training = generate(gan, requests(gan, 2, seed=0))
    assert gan.training
    gan.eval()
    assert torch.equal(in_training, generate(gan, requests(gan, 2, seed=0)))
    assert not gan.training


def test_nothing_asked_gives_nothing_of_the_right_shape(gan: Gan, gpt: Gpt) -> None:
    assert generate(gan, []).shape == (0, 1, 8, 8)
    assert generate(gpt, []) == []
    assert generate_timed(gan, []).rate is None


def test_one_bad_request_among_many_is_refused_before_anything_is_drawn(
    gan: Gan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(gan, "sample", never)
    with pytest.raises(ModelError, match="label 9"):
        generate(gan, [SampleRequest(0, {"label": 1})] * 70 + [SampleRequest(0, {"label": 9})])


@pytest.mark.parametrize("num", [1, 2, 9])
def test_timed_drawing_gives_the_same_samples_and_a_rate(gan: Gan, gpt: Gpt, num: int) -> None:
    asked = requests(gan, num, seed=5)
    images = generate_timed(gan, asked, batch_size=4)
    assert isinstance(images.samples, torch.Tensor)
    assert torch.equal(images.samples, generate(gan, asked))
    texts = generate_timed(
        gpt, said := requests(gpt, num, seed=5, conditions={"prompt": "two?"}), batch_size=4
    )
    assert texts.samples == generate(gpt, said)
    assert images.rate is not None
    assert texts.rate is not None
    assert min(images.rate, texts.rate) > 0


def test_a_folder_of_images_holds_exactly_the_numbered_pngs_and_their_record(
    gan: Gan, tmp_path: Path
) -> None:
    asked = requests(gan, 3, seed=7)
    write_samples(
        find_modality(gan.modality), generate(gan, asked), asked, tmp_path / "new" / "out"
    )
    out = tmp_path / "new" / "out"
    names = ["00000.png", "00001.png", "00002.png"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "samples.jsonl"]
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    seeds = sample_seeds(7, 3)
    assert rows == [
        {"file": name, "label": label, "seed": seed}
        for label, (name, seed) in enumerate(zip(names, seeds, strict=True))
    ]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_keep_their_size_and_levels_through_png(
    channels: int, mode: str, tmp_path: Path
) -> None:
    model = small_gan(channels=channels)
    asked = requests(model, 2, seed=1)
    images = generate(model, asked)
    write_samples(find_modality("image"), images, asked, tmp_path)
    with Image.open(tmp_path / "00001.png") as picture:
        assert (picture.mode, picture.size) == (mode, (8, 8))
    read_asked, read_images = read_samples(find_modality("image"), tmp_path)
    assert read_asked == asked
    assert isinstance(read_images, torch.Tensor)
    assert torch.equal(read_images, images)
    assert find_modality("image").samples.encode(images[1]) == (tmp_path / "00001.png").read_bytes()


def test_a_second_call_replaces_what_the_first_wrote(gan: Gan, tmp_path: Path) -> None:
    asked = requests(gan, 4, seed=0)
    write_samples(find_modality(gan.modality), generate(gan, asked), asked, tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    write_samples(find_modality(gan.modality), generate(gan, asked[:2]), asked[:2], tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["00000.png", "00001.png", "notes.md", "samples.jsonl"]


@pytest.mark.parametrize("name", ["holiday.png", "00000.png", "HOLIDAY.PNG"])
def test_a_folder_with_other_pngs_is_refused_and_left_alone(
    gan: Gan, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    asked = requests(gan, 1, seed=0)
    with pytest.raises(ModelError, match=f"holds {name}, which was not written by aigc-ops"):
        write_samples(find_modality(gan.modality), generate(gan, asked), asked, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_what_a_killed_call_left_is_replaced(gan: Gan, tmp_path: Path) -> None:
    asked = requests(gan, 3, seed=0)
    write_samples(find_modality(gan.modality), generate(gan, asked), asked, tmp_path)
    (tmp_path / STAGING).mkdir()
    for name in ("00002.png", "samples.jsonl"):
        (tmp_path / name).rename(tmp_path / STAGING / name)
    write_samples(find_modality(gan.modality), generate(gan, asked[:1]), asked[:1], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.png", "samples.jsonl"]


def test_a_folder_that_cannot_be_written_is_named(gan: Gan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ModelError, match="give another"):
            write_samples(find_modality(gan.modality), generate(gan, []), [], folder)


def test_texts_take_one_line_each_and_are_kept_exactly(tmp_path: Path) -> None:
    texts = ["two\nlines", "你好 \\ there", "\u2028\x85\x0b", "", '"quoted"\r']
    asked = [SampleRequest(seed, {"prompt": "p\n"}) for seed in range(5)]
    write_samples(find_modality("text"), texts, asked, tmp_path)
    lines = (tmp_path / "samples.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["two\\nlines", "你好 \\\\ there", "\\u2028\\x85\\x0b", "", '"quoted"\\r']
    first = json.loads((tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert first.pop("label", "absent") is None
    assert first == {"file": "samples.txt", "prompt": "p\n", "text": "two\nlines", "seed": 0}
    assert read_samples(find_modality("text"), tmp_path) == (asked, texts)


def test_no_samples_leave_an_empty_record(gpt: Gpt, tmp_path: Path) -> None:
    write_samples(find_modality(gpt.modality), generate(gpt, []), [], tmp_path)
    assert (tmp_path / "samples.txt").read_text() == ""
    assert (tmp_path / "samples.jsonl").read_text() == ""


def test_golden_samples_that_are_missing_or_no_pngs_are_refused(gan: Gan, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no golden samples"):
        read_golden(find_modality("image"), tmp_path)
    asked = requests(gan, 1, seed=0)
    write_samples(find_modality(gan.modality), generate(gan, asked), asked, tmp_path / GOLDEN)
    assert read_golden(find_modality("image"), tmp_path)[0] == asked
    to_pil(generate(gan, asked)[0]).save(tmp_path / GOLDEN / "00000.png", format="GIF")
    with pytest.raises(CheckpointError, match="not readable samples"):
        read_golden(find_modality("image"), tmp_path)


def test_a_record_cannot_name_a_file_outside_its_folder(gan: Gan, tmp_path: Path) -> None:
    asked = requests(gan, 1, seed=0)
    write_samples(find_modality(gan.modality), generate(gan, asked), asked, tmp_path / "inner")
    (tmp_path / "inner" / "00000.png").rename(tmp_path / "secret.png")
    record = json.dumps({"file": "../secret.png", "label": 0, "seed": 0})
    (tmp_path / "inner" / "samples.jsonl").write_text(record + "\n")
    with pytest.raises(CheckpointError):
        read_samples(find_modality("image"), tmp_path / "inner")


def test_a_grid_sets_images_row_by_row_with_two_pixels_between() -> None:
    images = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    images[1] = 100
    sheet = grid(images, columns=2)
    assert sheet.size == (2 * 64 + 6, 2 * 64 + 6)
    assert sheet.mode == "L"
    assert sheet.getpixel((1, 1)) == 255
    assert sheet.getpixel((2, 2)) == 0
    assert sheet.getpixel((2 + 64 + 2, 2)) == 100
    assert sheet.getpixel((2, 2 + 64 + 2)) == 0
    assert sheet.getpixel((2 + 64 + 2, 2 + 64 + 2)) == 255


def test_a_grid_of_large_images_is_not_enlarged_and_one_of_digits_is_doubled() -> None:
    assert grid(torch.zeros(1, 3, 100, 100, dtype=torch.uint8)).size == (104, 104)
    assert grid(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).size == (60, 60)

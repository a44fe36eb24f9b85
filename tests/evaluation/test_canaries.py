"""Canaries of images and texts: what they are, and how models betray the ones they have seen."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import ConfigError, EvaluationError
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data.canaries import coins, make_canaries, require_canaries
from aigc_ops.interfaces.canaries import MembershipModel
from aigc_ops.interfaces.data import Groups
from aigc_ops.interfaces.evaluation import LoadedModel
from aigc_ops.interfaces.model import FamilyConfig
from aigc_ops.modalities.image import MODALITY as IMAGES
from aigc_ops.modalities.image.canaries import NEAREST, JoinedImages
from aigc_ops.modalities.image.model import ImageData, Images
from aigc_ops.modalities.text import MODALITY as TEXTS
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.vae import VaeConfig
from aigc_ops.statistics.privacy import PrivacyAudit, audit
from aigc_ops.storage.checkpoints import load_model
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train
from tests.conftest import ref_of, striped_digits

VAE = VaeConfig(latent_dim=16, width=32, likelihood="gaussian")
GAN = GanConfig(
    network="fully_connected",
    latent_dim=8,
    generator_width=16,
    critic_width=64,
    critic=VAE.autoencoder,
)
CONTEXT: Any = SimpleNamespace(seed=0, section=SimpleNamespace(num_samples=600))


class Stream(Images):
    """Images that are read on demand, in groups."""

    def __init__(self, data: ImageData) -> None:
        self.data, self.shape = data, data.shape
        self.groups = Groups((4, 4, 2), at_once=2)

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Tensor) -> ImageData:
        assert len(indices), "a real stream has no labels for no images"
        return self.data.take(indices)


def loaded(model: Any) -> LoadedModel:
    return LoadedModel(checkpoint=SimpleNamespace(), model=model, content_digest="0")  # type: ignore[arg-type]


def audited(config: FamilyConfig, folder: Path, *, steps: int, num: int = 40) -> PrivacyAudit:
    """The audit of a model that was trained on 200 striped digits and half of the canaries."""
    data = striped_digits(200)
    canaries = make_canaries(ref_of(data), data, num, seed=0)
    job = TrainingJob(
        model=config,
        config=TrainingConfig(
            steps=steps, batch_size=32, watch={"action": "off"}, sample_every=10_000
        ),
        dataset=canaries.dataset(ref_of(data)),
        read_data=lambda _: data,
        seed=0,
        folder=RunFolder(folder),
        tracker=SilentTracker(),
        plant=canaries.plant,
    )
    model = load_model(Path(train(job).uri)).eval()
    scores = canaries.hooks.score(loaded(model), canaries.samples, CONTEXT)
    return audit(scores.values, canaries.included)


@pytest.mark.parametrize(("config", "steps"), [(VAE, 500), (GAN, 300)], ids=["vae", "gan"])
def test_an_overfitted_model_betrays_its_canaries(
    tmp_path: Path, config: FamilyConfig, steps: int
) -> None:
    brief = audited(config, tmp_path / "brief", steps=5)
    assert brief.epsilon == 0
    assert brief.accuracy.low < 0.5 < brief.accuracy.high
    overfitted = audited(config, tmp_path / "overfitted", steps=steps)
    assert 0.5 < overfitted.epsilon <= overfitted.ceiling
    assert overfitted.accuracy.low > 0.5


def test_a_family_without_scores_is_audited_by_its_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = striped_digits(200)
    canaries = make_canaries(ref_of(data), data, 40, seed=0)
    known = canaries.samples.take(torch.from_numpy(np.flatnonzero(canaries.included)))
    assert isinstance(known, ImageData)

    def sample(_: Gan, requests: Sequence[Any]) -> Tensor:
        """Darker copies of the canaries that were trained on."""
        return known.images[[request.seed % len(known) for request in requests]] // 4 * 3

    monkeypatch.delattr(Gan, "membership_scores")
    monkeypatch.setattr(Gan, "sample", sample)
    model = Gan(GanConfig(latent_dim=4, generator_width=4, critic_width=4), data.shape)
    assert not isinstance(model, MembershipModel)
    scores = canaries.hooks.score(loaded(model), canaries.samples, CONTEXT)
    assert scores.method == f"{NEAREST}, of 600"
    assert audit(scores.values, canaries.included).epsilon > 0.5


def test_coins_are_fair_independent_and_the_same_for_every_number() -> None:
    flags = coins(4000, seed=7)
    assert abs(flags.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(flags[:-1], flags[1:])[0, 1]) < 0.05
    assert (coins(50, seed=7) == flags[:50]).all()
    assert (coins(50, seed=8) != flags[:50]).any()


def test_canaries_of_images_have_the_shape_and_classes_of_the_data() -> None:
    data = striped_digits(20, num_classes=3)
    hooks = IMAGES.canaries
    first, again, other = (hooks.make(data, 30, seed=seed) for seed in (1, 1, 2))
    assert isinstance(first, ImageData)
    assert first.images.shape == (30, 1, 8, 8)
    assert first.images.dtype == torch.uint8
    assert first.labels is not None
    assert set(first.labels.tolist()) == {0, 1, 2}
    assert hooks.digest(first) == hooks.digest(again) != hooks.digest(other)
    plain = ImageData(data.images, None, ImageShape(channels=1, height=8, width=8))
    assert hooks.make(plain, 3, seed=1).labels is None  # type: ignore[attr-defined]


def test_streamed_images_are_followed_by_canaries() -> None:
    data = striped_digits(10)
    canaries = IMAGES.canaries.make(data, 5, seed=0)
    assert isinstance(canaries, ImageData)
    joined = IMAGES.canaries.join(Stream(data), canaries)
    whole = IMAGES.canaries.join(data, canaries)
    assert isinstance(joined, JoinedImages)
    assert isinstance(whole, ImageData)
    assert whole.is_resident
    assert not joined.is_resident
    assert len(joined) == len(whole) == 15
    assert joined.groups is not None
    assert (sum(joined.groups.sizes), joined.groups.at_once) == (15, 2)
    for rows in ([14, 0, 3, 12, 9], [1, 2], [10, 11]):
        taken, expected = (
            each.take(torch.tensor(rows, dtype=torch.long)) for each in (joined, whole)
        )
        assert torch.equal(taken.images, expected.images)
        assert torch.equal(taken.labels, expected.labels)


def test_canaries_of_texts_have_the_alphabet_length_and_prompts_of_the_data() -> None:
    texts = ["abcd efgh ijkl mnop"] * 3 + ["é" * 19, "short\nline"]
    data = TextData(texts, ["what is it, my dear?"] * 5, [()] * 5)
    hooks = TEXTS.canaries
    first, again, other = (hooks.make(data, 12, seed=seed) for seed in (1, 1, 2))
    assert isinstance(first, TextData)
    assert {len(text) for text in first.texts} == {19}
    assert set("".join(first.texts)) <= set("".join(texts)) - {"\n"}
    assert len(set(first.texts)) == 12
    assert first.prompts is not None
    assert {len(prompt) for prompt in first.prompts} == {20}
    assert first.histories == [()] * 12
    assert hooks.digest(first) == hooks.digest(again) != hooks.digest(other)
    joined = hooks.join(data, first)
    assert isinstance(joined, TextData)
    assert list(joined.texts) == [*texts, *first.texts]
    assert joined.take([4, 5]).prompts == [data.prompts[4], first.prompts[0]]  # type: ignore[index]
    assert hooks.make(TextData(["a b"]), 1, seed=0).prompts is None  # type: ignore[attr-defined]
    with pytest.raises(EvaluationError, match="1 printable characters, and canaries need at least"):
        hooks.make(TextData(["aaaa"]), 1, seed=0)


class Pretrained(TextModel):
    """A text model that gives each text the likelihood of its length in its own units."""

    def __init__(self, liked: set[str], origin: "Pretrained | None" = None) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.liked, self.base = liked, origin

    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        nats = [-10.0 * text.count("a") - 5 * (text not in self.liked) for text in data.texts]
        return torch.tensor(nats).double(), torch.ones(len(data))

    def origin(self, data: TextData) -> "Pretrained | None":
        return self.base


Pretrained.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def test_a_finetuned_model_is_compared_with_its_base_model() -> None:
    data = TextData(["a", "b"])
    base = Pretrained(set())
    alone = TEXTS.canaries.score(loaded(Pretrained({"b"})), data, CONTEXT)
    assert alone.values.tolist() == [-15, 0]
    compared = TEXTS.canaries.score(loaded(Pretrained({"b"}, base)), data, CONTEXT)
    assert compared.values.tolist() == [0, 5]  # what the base model knew counts for nothing
    assert "pretrained" in compared.method


def test_a_modality_without_canaries_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ref_of(striped_digits(200))
    require_canaries(ref, 40, seed=0)
    monkeypatch.setitem(vars(IMAGES), "canaries", None)  # a cached property
    require_canaries(ref, 0, seed=0)
    with pytest.raises(ConfigError, match="the modality image has no canaries; set it to 0"):
        require_canaries(ref, 40, seed=0)


def test_small_data_cannot_be_audited() -> None:
    with pytest.raises(ConfigError, match=r"an audit needs \d+ canaries and \d+ training rows"):
        require_canaries(ref_of(striped_digits(12)), 2, seed=0)

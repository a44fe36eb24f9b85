"""Two models side by side on the same seeds, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from aigc_ops import sampling
from aigc_ops.artifacts import Checkpoint, DatasetRef
from aigc_ops.data import DataConfig, read_split
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.drawn import searched
from aigc_ops.evaluation.extractors import load_extractor
from aigc_ops.evaluation.images import Splits
from aigc_ops.evaluation.memorisation import NEXT, Pictured, nearest
from aigc_ops.evaluation.overlap import overlap
from aigc_ops.evaluation.paired import drawn, load, reader
from aigc_ops.evaluation.pictures import class_grid, pairs_grid
from aigc_ops.generative import ImageModel, TextData, TextModel

NUM_TEXTS = 12
NUM_NEAR = 4
"""Texts of each model that are shown beside their nearest training texts."""


@dataclass(frozen=True)
class Shown:
    """What is put side by side."""

    pictures: Sequence[tuple[str, Image.Image]] = ()
    """(caption, grid) of the candidate, then of the champion."""
    pairs: Sequence[tuple[str, Image.Image]] = ()
    """(caption, samples above their nearest training images) of the same."""
    texts: Sequence[tuple[str, Sequence[str]]] = ()
    """(prompt, each model's text)."""
    near: Sequence[tuple[int, str, str, float]] = ()
    """(place of a model, its text, the nearest training text, likeness), the likest first."""


def side_by_side(
    checkpoints: Sequence[tuple[str, Checkpoint]],
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
) -> Shown:
    """The named checkpoints' samples from the same seeds, and classes or prompts."""
    if ref.modality == "text":
        return _texts([each for _, each in checkpoints], ref, data_config, config, seed=seed)
    extractor = load_extractor(config)
    splits = Splits(ref, reader(ref, data_config), data_config, config, extractor, cache)
    train = splits.pictured("train") if ref.num_train > NEXT + 1 else None
    pictures, pairs = [], []
    for name, checkpoint in checkpoints:
        model = cast(ImageModel, load(checkpoint, config))
        samples = drawn(checkpoint, model, ref, extractor, config, seed=seed, cache=cache)
        pictures.append((name, class_grid(samples.images, model.shape.num_classes)))
        if train:
            pairs.append((name, _pairs(samples, train)))
    return Shown(pictures=pictures, pairs=pairs)


def _pairs(samples: Pictured, train: Pictured) -> Image.Image:
    num = len(samples.images)
    features = torch.from_numpy(np.asarray(samples.features[:num], np.float32))
    found = nearest(features, torch.from_numpy(np.asarray(train.features, np.float32)))
    return pairs_grid(samples.images, train.images, found.index, found.closeness)


def _texts(
    checkpoints: Sequence[Checkpoint],
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
) -> Shown:
    models = [cast(TextModel, load(each, config)) for each in checkpoints]
    prompts: list[str] = []
    if ref.num_heldout:
        heldout = cast(TextData, read_split(ref, data_config, "heldout"))
        prompts = list(heldout.prompts or ())[: 4 * NUM_TEXTS]
    for model in models:
        prompts = sampling.servable(model, prompts, NUM_TEXTS)
    asked = [sampling.requests(m, NUM_TEXTS, seed=seed, prompt=prompts or None) for m in models]
    answers = [sampling.draw(m, each) for m, each in zip(models, asked, strict=True)]
    train = cast(TextData, read_split(ref, data_config, "train"))
    return Shown(
        texts=[
            (request.prompt or "", tuple(texts))
            for request, *texts in zip(asked[0], *answers, strict=True)
        ],
        near=[
            (place, *each)
            for place, texts in enumerate(answers)
            for each in _nearest(texts, train.texts)
        ],
    )


def _nearest(texts: Sequence[str], train: Sequence[str]) -> list[tuple[str, str, float]]:
    """The texts likest to a training text, that text and how alike they are."""
    rows = searched(train)
    _, found = overlap(texts, (train[row] for row in rows), num_near=len(texts))
    near = [
        (text, train[rows[each.index]], each.similarity)
        for text, each in zip(texts, found, strict=True)
        if each
    ]
    return sorted(near, key=lambda each: -each[2])[:NUM_NEAR]

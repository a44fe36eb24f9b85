"""Reference images of each split and their features, read and computed once."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.interfaces.ingestion import Split
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics import EVALUATION_VERSION
from aigc_ops.modalities.image.metrics.alterations import ALTERATIONS
from aigc_ops.modalities.image.metrics.baseline import PixelGaussian
from aigc_ops.modalities.image.metrics.kept_samples import Source, kept_rows
from aigc_ops.modalities.image.metrics.memorisation import (
    COPIES_VERSION,
    MIN_HELDOUT,
    CopyControls,
    ImageFeatures,
    copy_controls,
)
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.statistics.cached import Arrays, cached_arrays
from aigc_ops.statistics.extraction import gather_features, plan_blocks
from aigc_ops.statistics.intervals import Estimate, frechet_estimate
from aigc_ops.statistics.moments import MAX_KEPT, FeatureSet
from aigc_ops.statistics.reference import (
    Reference,
    computed_by,
    reference_rows,
    reference_statistics,
    reference_terms,
)

# Data settings that decide, besides the files, which images are read. Names of before
# modalities had sections: they enter the digests of stored references.
READ_AS = ("image_column", "image_size")
MORE_IMAGES = "hold out more data, or compare with another split (--evaluation.image.reference)"


def image_terms(context: EvaluationContext, split: Split) -> dict[str, JsonValue]:
    """Return the terms that identify a split in evaluation conditions."""
    appearance = {name: context.data_settings[name] for name in READ_AS}
    appearance["image_shape"] = None
    if shape := context.ref.image_shape:
        # Class names do not change pixels, so renaming a class keeps cached features valid.
        appearance["image_shape"] = shape.model_dump(mode="json", exclude={"class_names"})
    return reference_terms(
        context.ref,
        split,
        context.settings.num_reference,
        appearance,
        advice=MORE_IMAGES,
    )


class Splits:
    """The reference images of each split, and their features by one extractor."""

    def __init__(self, context: EvaluationContext, extractor: Extractor) -> None:
        self._context, self._extractor = context, extractor
        self._images: dict[Split, ImageData] = {}

    def terms(self, split: Split) -> dict[str, JsonValue]:
        """Return the terms that identify this split in evaluation conditions."""
        return image_terms(self._context, split)

    def num_rows(self, split: Split) -> int:
        """Return the number of images of a split, before a selection."""
        return self._context.ref.num_rows(split)

    def _rows(self, split: Split) -> Tensor:
        """Return the indices of a split's reference images."""
        num, available = self.terms(split)["num_reference"], len(self._context.read(split))
        assert isinstance(num, int), num
        return torch.tensor(reference_rows(available, num))

    def images(self, split: Split) -> ImageData:
        """Return the reference images of a split whose features are stored."""
        if split not in self._images:
            rows = self._rows(split)
            # Of a large reference set only MAX_KEPT rows of features are stored; the same
            # selection of images keeps both aligned.
            kept = torch.tensor(reference_rows(len(rows), MAX_KEPT))
            self._images[split] = self._context.read(split).take(rows[kept])
        return self._images[split]

    def reference(self, split: Split) -> Reference:
        """Return features and statistics of all reference images of a split."""

        def compute() -> FeatureSet:
            data, rows = self._context.read(split), self._rows(split)
            if len(rows) <= MAX_KEPT:
                features = self._extractor.features(self.images(split).images, what="the data")
                return FeatureSet(features)
            # Too many images for memory: block by block, with moments instead of all features.
            return gather_features(
                plan_blocks(len(rows)),
                lambda indices: data.take(rows[indices]).images,
                self._extractor,
                num_bytes=data.shape.channels * data.shape.height * data.shape.width,
                what="the data",
            )

        return reference_statistics(
            compute,
            self.terms(split),
            self._extractor,
            self._context.cache,
            version=EVALUATION_VERSION,
        )

    def pictured(self, split: Split) -> ImageFeatures:
        """Return the stored images of a split together with their features."""
        return ImageFeatures(self.images(split).images, self.reference(split).features)

    def baseline(self, num: int, reference: Split) -> Estimate:
        """Return the distance of `num` samples of the trivial baseline to a split."""
        seed = self._context.seed

        def compute() -> Arrays:
            data = self.images("train")
            drawn = PixelGaussian(data)
            source = Source(
                lambda rows: drawn.sample(rows, seed=seed),
                data.shape,
                self._extractor,
                "the baseline",
                keeps_images=False,
            )
            cache = self._context.cache.with_name("samples")
            _, features = kept_rows(source, num, made_of, cache, name="baseline")
            found = frechet_estimate(features, self.reference(reference).gaussian)
            return {"estimate": np.array([found.value, found.low, found.high])}

        made_of: dict[str, JsonValue] = {
            "baseline": 1,  # raise it when the baseline changes
            "seed": seed,
            "train": self.terms("train"),
        }
        terms = {**made_of, "n": num, "reference": self.terms(reference)}
        found = self._cached(compute, terms, "baseline")
        return Estimate(*found["estimate"].tolist())

    def copy_controls(self) -> CopyControls | None:
        """Return what the check for copies is calibrated with; None without enough images."""
        is_cross_fitted = self._context.section.copy_control == "cross_fitted"
        if not is_cross_fitted and self.num_rows("heldout") < MIN_HELDOUT:
            return None

        def compute() -> Arrays:
            def extract(images: Tensor) -> NDArray[np.floating]:
                return self._extractor.features(images, what="planted copies")

            heldout = None if is_cross_fitted else self.pictured("heldout")
            controls = copy_controls(self.pictured("train"), heldout, extract)
            return controls.arrays() if controls else {}

        terms: dict[str, JsonValue] = {
            "train": self.terms("train"),
            "heldout": None if is_cross_fitted else self.terms("heldout"),
            "alterations": list(ALTERATIONS),
            "version": COPIES_VERSION,
        }
        arrays = self._cached(compute, terms, "copies")
        return CopyControls.from_arrays(arrays) if arrays else None

    def _cached(
        self, compute: Callable[[], Arrays], terms: Mapping[str, JsonValue], name: str
    ) -> Arrays:
        made_by = computed_by(self._extractor, EVALUATION_VERSION)
        description = {"terms": dict(terms), **made_by}
        return cached_arrays(compute, description, self._context.cache, name=name)

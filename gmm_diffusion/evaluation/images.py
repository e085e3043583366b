"""Scores of images, or latents, against the training images and the judges."""

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import stages
from gmm_diffusion.data import Dataset
from gmm_diffusion.evaluation.checks import other_features, stored_statistics
from gmm_diffusion.evaluation.reference import Reference
from gmm_diffusion.metrics import consistency, features, frechet, manifold
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.features import make_extractor
from gmm_diffusion.metrics.judge import Judge


def reference(config: ConfigDict, data: Dataset) -> np.ndarray:
    """The training images `[N, H, W, C]` that samples are compared with, evenly spaced."""
    return data.train.sample(config.evaluation.max_reference).x


class ImageScores:
    """Scores of uint8 images or float latents `[N, H, W, C]`: numbers, or `[J]`, one a judge.

    Args:
      config: see the group `evaluation`.
      data: whose training images they are compared with.
      panel: of J judges; empty for data without labels.
      real: the held-out images.
      folder: in which what is read of the training images is kept; None keeps nothing.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: Dataset,
        panel: tuple[Judge, ...],
        real: np.ndarray,
        folder: pathlib.Path | None = None,
    ):
        self.data, self.panel, self.real = data, panel, real
        self.k = config.evaluation.neighbours
        self.train = reference(config, data)

        def extractors(spec):
            if spec == "judge":
                return [make_extractor(spec, data, judge) for judge in panel]
            return [make_extractor(spec, data)]

        # The same spaces for all models: the judges', or principal components without labels.
        usual = "judge" if panel else "pca"
        spec = config.evaluation.features
        near, spaces = extractors(usual), extractors(usual if spec == "judge" else spec)
        stored = stored_statistics(config)
        if stored is not None:
            spaces = [extractor for extractor in spaces if extractor.id == stored.extractor]
            if not spaces:
                raise other_features(stored)
        self.manifolds, self.frechet = [], []
        kept = Reference(data, folder)
        with stages.watched("Reading training images", len(near) + len(spaces)) as tick:
            for extractor in near:
                tick()
                self.manifolds.append(_Manifold(extractor, self.train, self.k, kept))
            for extractor in spaces:
                tick()
                known = stored or kept.statistics(extractor, data.train.x)
                self.frechet.append(_Frechet(extractor, known))
        self.features = {
            "manifold": ",".join(space.id for space in self.manifolds),
            "frechet": ",".join(space.id for space in spaces),
            "resize": spaces[0].resize,
        }
        # Mirror images of training examples are memorised ones too where training mirrors.
        self.views = self.train
        if config.data.flip:
            self.views = np.concatenate([self.train, self.train[:, :, ::-1]])

    def __call__(
        self, x: np.ndarray, labels: np.ndarray | None, attributes: np.ndarray | None = None
    ) -> dict[str, Any]:
        count = frechet.count_name(len(x))
        scores = _by_judge([space(x) for space in self.manifolds], "", count)
        scores |= _by_judge([distance(x) for distance in self.frechet], "", count)
        scores[f"memorisation_{count}"] = manifold.memorisation(x, self.views, self.real)
        if labels is not None and self.panel:
            scores[f"agreement_{count}"] = [
                consistency.agreement(labels, judges.predict(judge, x), self.data.num_classes)[
                    "agreement"
                ]
                for judge in self.panel
            ]
        if attributes is not None:
            scores |= self.attributes("", x, attributes)
        return scores

    def attributes(self, prefix: str, x: np.ndarray, requested: np.ndarray) -> dict[str, Any]:
        """Whether `x` has the attributes that were asked for, by name."""
        rows = [
            consistency.attribute_agreement(requested, judges.predict(judge, x))
            for judge in self.panel
        ]
        return _by_judge(rows, prefix, frechet.count_name(len(x)))

    def coverage_ceiling(self, num: int) -> float:
        return manifold.coverage_ceiling(num, len(self.train), self.k)


class _Manifold:
    """Where the training images lie in a space of features."""

    def __init__(self, extractor, train, k, kept):
        self.id, self.extract, self.k = extractor.id, extractor.extract, k
        self.reference, self.radii = kept.balls(extractor, train, k)

    def __call__(self, x):
        features = self.extract(x)
        precision = manifold.precision(features, self.reference, self.k, self.radii)
        return {
            "defect_rate": 1.0 - precision,
            "precision": precision,
            "recall": manifold.recall(features, self.reference, self.k),
            "coverage": manifold.coverage(features, self.reference, self.k, self.radii),
        }


class _Frechet:
    """The distance of images to the training images in a space of features."""

    def __init__(self, extractor, statistics):
        self.extractor, self.statistics = extractor, statistics

    def __call__(self, x):
        found = features.statistics(self.extractor, x)
        return {"frechet": frechet.distance(found, self.statistics)}


def _by_judge(rows, prefix, count):
    """One dict a judge -> the scores of all judges by name."""
    return {f"{prefix}{name}_{count}": [row[name] for row in rows] for name in rows[0]}

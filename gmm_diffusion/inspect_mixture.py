"""What the mixture of a config's data looks like, in words and pictures: `inspect_data --mixture`.

It is fitted as a run would fit it, to the training split. How good other numbers of components
would be is judged on the validation split, or where there is none on held-out data.
"""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gmm_diffusion import assembly, pictures, stages
from gmm_diffusion.assembly import conditioners
from gmm_diffusion.assembly.kind import settings
from gmm_diffusion.conditioning import Conditioner, portrait
from gmm_diffusion.conditioning.features import to_data
from gmm_diffusion.data import Dataset, Split, batches, latents, to_uint8
from gmm_diffusion.errors import InputError
from gmm_diffusion.model.fitted import FittedStatistics

log = logging.getLogger(__name__)

# Of so many components each has a line, or a row; of more the largest.
_LISTED = 40
_NEAREST = 8
_PIXELS = 32  # Smaller images are enlarged to at least this.
# Of automatic K: so many examples a component, at least.
_EXAMPLES = 5
# An example that has at least this weight in one component is of that one.
_SURE = 0.9


@dataclasses.dataclass(frozen=True)
class Portrait:
    """What there is to say of a fitted mixture of K components.

    Attributes:
      fitted: with the mixture itself.
      weights: `[N, K]`, of the N training examples and mirrored ones.
      rows: `[K, n]` training examples nearest to each, nearest first; -1 where there are fewer.
      curve: likelihood against K, or None for clusters, which have no density.
    """

    fitted: FittedStatistics
    weights: np.ndarray
    rows: np.ndarray
    curve: portrait.LikelihoodCurve | None

    @property
    def conditioner(self) -> Conditioner:
        """The mixture and whose its components are."""
        assert self.fitted.conditioner is not None
        return self.fitted.conditioner

    @property
    def shares(self) -> np.ndarray:
        """`[K]`, of the training examples, with sum 1."""
        return self.weights.mean(axis=0, dtype=np.float64)

    @property
    def shown(self) -> np.ndarray:
        """The components that are listed and drawn: by class, and the largest first."""
        largest = np.argsort(-self.shares, kind="stable")[:_LISTED]
        return largest[
            np.argsort(np.asarray(self.conditioner.component_class)[largest], kind="stable")
        ]


def check(config: ConfigDict) -> None:
    """Raises InputError where no mixture is fitted."""
    kind = assembly.kind(config)
    if kind is None or not kind.fitted:
        name = config.conditioning.kind
        raise InputError(
            f"--mixture is given, and conditioning.kind {name!r} fits none to the data; gmm and "
            "clusters do."
        )


def look(config: ConfigDict, data: Dataset, nums: Sequence[int]) -> Portrait:
    """Fits the mixture of a run, and those of `nums` components (`components`).

    Raises:
      InputError: data that cannot be fitted.
    """
    group = config.conditioning
    begun = time.monotonic()
    fitted, weights = conditioners.fit_with_weights(config, data)
    assert fitted.conditioner is not None
    assert weights is not None
    log.info("Fitted %d components in %.1f s.", weights.shape[2], time.monotonic() - begun)
    examples = conditioners.split_examples(config, fitted, data.train)
    rows = portrait.nearest(fitted.conditioner, examples, len(data.train), _NEAREST)
    curve = None
    if fitted.conditioner.centers is None:
        unseen = data.watched.sample(group.em_max_points)
        if data.train.streamed:
            # Features are fitted to what stands for all.
            sample = conditioners.split_examples(config, fitted, data.train.sample()).x
            examples = dataclasses.replace(examples, sample=sample)
        with stages.watched("Likelihood of each K", len(nums)) as tick:
            curve = portrait.likelihood_curve(
                examples,
                conditioners.split_examples(config, fitted, unseen),
                settings(config),
                config.training.seed,
                nums,
                tick,
            )
    return Portrait(fitted, weights.reshape(-1, weights.shape[2]), rows, curve)


def components(config: ConfigDict, data: Dataset, nums: Sequence[int]) -> list[int]:
    """The numbers of components to try: `nums`, or where that is empty some around the config's.

    Raises:
      InputError: a number that cannot be fitted.
    """
    group = config.conditioning
    if not nums:
        return _usual(group.num_components, data, group.per_class)
    each = data.num_classes if group.per_class else 1
    most = _least_examples(data, group.per_class) * each
    for num in nums:
        if num < 1 or num % each or num > most:
            multiple = f", a multiple of the {each} classes" if group.per_class else ""
            raise InputError(f"--components has {num}; each must be from 1 to {most}{multiple}.")
    return sorted(set(nums))


def _usual(num, data, per_class):
    """K, halved three times and doubled twice, where each component has some examples."""
    each = data.num_classes if per_class else 1
    most = max(1, _least_examples(data, per_class) // _EXAMPLES)
    own = num // each
    found = {min(max(1, round(own * 2.0**power)), most) for power in range(-3, 3)} | {own}
    return sorted(each * n for n in found)


def _least_examples(data, per_class):
    """Training examples of the class that has the fewest, or of all."""
    return int(np.bincount(data.train.label).min()) if per_class else len(data.train)


def describe(config: ConfigDict, data: Dataset, seen: Portrait) -> list[str]:
    """Lines of text."""
    owner = np.asarray(seen.conditioner.component_class)
    transform, (_, count) = seen.conditioner.transform, seen.weights.shape
    assert transform is not None
    shares = seen.shares
    entropy = portrait.entropies(seen.weights)
    sure = np.mean(seen.weights.max(axis=1) >= _SURE)
    of = owner.max() + 1 if owner.min() >= 0 else 1
    alike = np.exp(portrait.entropies(shares[None])[0])
    lines = [
        f"mixture    {count} components in {len(transform.scale)} {config.conditioning.features} "
        f"features, as many as {alike:.1f} of equal shares",
        f"entropy    {entropy.mean():.3f} nats a training example, of at most "
        f"{np.log(count / of):.3f}: as if {np.exp(entropy.mean()):.2f} of {count // of} components "
        f"shared it; {100 * sure:.1f} % have {_SURE} or more in one",
        "",
        *_components(data, seen, owner, shares),
    ]
    if seen.curve is not None:
        lines += ["", *_likelihoods(config, data, seen.curve)]
    return lines


def _components(data, seen, owner, shares):
    names = [_class_name(data, owner[k]) for k in seen.shown]
    width = max(map(len, ["class", *names]))
    mostly = np.bincount(seen.weights.argmax(axis=1), minlength=len(shares)) / len(seen.weights)
    rest = len(shares) - len(seen.shown)
    return [
        f"component  {'class':<{width}}  share    largest in  nearest training examples",
        *(
            f"{k:>9}  {name:<{width}}  {100 * shares[k]:5.2f} %  {100 * mostly[k]:8.2f} %  "
            f"{', '.join(str(row) for row in seen.rows[k] if row >= 0)}"
            for k, name in zip(seen.shown, names, strict=True)
        ),
        *([f"... and {rest} smaller ones"] if rest else []),
    ]


def _class_name(data, owner):
    return data.class_names[owner] if owner >= 0 else "-"


def _likelihoods(config, data, curve):
    unseen = "validation" if data.validation is not None else "held out"
    own = config.conditioning.num_components
    return [
        f"      K    training  {unseen:>10}  below the best (nats an example, log-likelihood)",
        *(
            f"{num:>7}  {fitted:>10.3f}  {found:>10.3f}  {behind:>7.3f} +- {error:.3f}"
            f"{'  this config' if num == own else ''}"
            for num, fitted, found, behind, error in zip(
                curve.num_components,
                curve.fitted,
                curve.unseen,
                curve.behind,
                curve.error,
                strict=True,
            )
        ),
        f"K = {curve.best} is best, {curve.smallest} the smallest within a standard error of it.",
    ]


def draw(data: Dataset, seen: Portrait, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes `mixture.png` and `likelihood.png` where there is such, and returns what was written.

    Of images a row for each component: its mean, where its features lead back to images, and the
    nearest training images. Of vectors a plot of their first two coordinates with an ellipse of one
    standard deviation for each component, where likewise.
    """
    written = []
    sheet, chart = out / "mixture.png", out / "likelihood.png"
    if len(data.shape) != 3:
        _draw_points(data, seen, sheet)
        written.append(sheet)
    elif data.is_image or data.decoder is not None:
        _draw_images(data, seen, sheet)
        written.append(sheet)
    if seen.curve is not None:
        curve = seen.curve
        unseen = "validation" if data.validation is not None else "held out"
        pictures.curves(
            chart,
            curve.num_components,
            {"training": (curve.fitted, None), unseen: (curve.unseen, curve.error)},
            "components K",
            "log-likelihood, nats an example",
            mark=seen.conditioner.num_components,
        )
        written.append(chart)
    return written


def _has_inverse(conditioner):
    return conditioner.transform.source == "data"


def _feature_means(conditioner):
    centers = conditioner.mixture.means if conditioner.centers is None else conditioner.centers
    return np.asarray(centers)


def _in_units_of_data(data: Dataset, seen: Portrait, features: np.ndarray) -> np.ndarray:
    """Features `[M, D]` -> `[M, ...]` as the data are, images within [-1, 1]."""
    transform = seen.conditioner.transform
    assert transform is not None
    centred = to_data(transform, features).reshape(-1, *data.shape)
    return np.asarray(batches.invert(seen.fitted.transform, jnp.asarray(centred)))


def _draw_images(data, seen, path):
    shown, count = seen.shown, seen.rows.shape[1]
    # A component of few examples repeats its last one.
    rows = np.where(seen.rows >= 0, seen.rows, seen.rows.max(axis=1, keepdims=True))[shown]
    # One of none at all shows the first example, and a share of 0.
    images = data.train.read(np.maximum(rows, 0).ravel()).x
    if data.decoder is not None:
        images = latents.decode(data.decoder, images)
    images = images.reshape(len(shown), count, *images.shape[1:])
    if _has_inverse(seen.conditioner):
        means = _in_units_of_data(data, seen, _feature_means(seen.conditioner)[shown])
        means = to_uint8(means) if data.decoder is None else latents.decode(data.decoder, means)
        images = np.concatenate([means[:, None], images], axis=1)
    owner = np.asarray(seen.conditioner.component_class)
    captions = [
        f"{f'{_class_name(data, owner[k])[:12]}, ' if owner[k] >= 0 else ''}#{k}: "
        f"{100 * seen.shares[k]:.1f} %"
        for k in shown
    ]
    scale = max(1, -(-_PIXELS // min(images.shape[2:4])))
    pictures.save_png(path, pictures.captioned(images, captions, scale))


def _draw_points(data: Dataset, seen: Portrait, path: pathlib.Path) -> None:
    split: Split = data.train
    ellipses = None
    if _has_inverse(seen.conditioner) and seen.conditioner.centers is None and data.shape[0] > 1:
        ellipses = _ellipses(data, seen)
    component = seen.weights[: len(split)].argmax(axis=1)
    pictures.scatter(split.x, component, path, ellipses)


def _ellipses(data, seen):
    """Means `[K, 2]` and covariances `[K, 2, 2]` of the first two coordinates of the data."""
    mix = seen.conditioner.mixture
    basis = np.eye(mix.dim) if mix.basis is None else np.asarray(mix.basis)
    basis = np.broadcast_to(basis, (mix.num_components, mix.dim, mix.dim))
    roots = np.swapaxes(basis * np.sqrt(np.asarray(mix.spectrum))[:, None], 1, 2)  # [K, D, D]
    features = np.asarray(mix.means)
    means = _in_units_of_data(data, seen, features)[:, :2]
    ends = _in_units_of_data(data, seen, (features[:, None] + roots).reshape(-1, mix.dim))
    offsets = ends[:, :2].reshape(*roots.shape[:2], 2) - means[:, None]
    return means, np.einsum("kdi,kdj->kij", offsets, offsets)

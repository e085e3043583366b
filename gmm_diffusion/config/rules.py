"""The rule of each setting by itself."""

import math
import re
from collections.abc import Callable

from gmm_diffusion.bounds import MOST, SAMPLER, is_ema_width
from gmm_diffusion.tasks import TASKS

# The keys of `conditioning.KINDS`, and none; those whose classifiers learn attributes. By name, as
# a bad flag is refused before jax has loaded; a test holds them equal to the table.
KINDS = ("gmm", "attributes", "class", "clusters", "none")
KINDS_OF_ATTRIBUTES = ("attributes",)


def _one_of(*names: str) -> tuple[Callable, str]:
    return (lambda v: v in names), f"one of {', '.join(names)}"


def _range(low: float, high: float = MOST) -> tuple[Callable, str]:
    text = f"at least {low:g}, and at most" if high == MOST else f"from {low:g} to"
    return (lambda v: low <= v <= high), f"{text} {high:.10g}"


def _above(low: float, high: float = MOST) -> tuple[Callable, str]:
    return (lambda v: low < v <= high), f"more than {low:g}, and at most {high:.10g}"


def _texts() -> tuple[Callable, str]:
    return (lambda v: all(isinstance(t, str) and t for t in v)), "a tuple of texts, or empty"


def _seed() -> tuple[Callable, str]:
    return _range(0)


def _file_name() -> tuple[Callable, str]:
    return (
        # Neither "." nor "..": the name becomes a file's.
        lambda v: len(v) <= 200 and re.fullmatch(r"([A-Za-z0-9_=-][A-Za-z0-9_.=-]*)?", v),
        "empty, or at most 200 letters, digits and any of _ . = -, the first one no dot",
    )


def _ema_width() -> tuple[Callable, str]:
    return (lambda v: v == 0 or is_ema_width(v)), "0, or at least 1e-06 and below 0.28"


# field -> (check, what is valid). Types are ConfigDict's business.
RULES: dict[str, tuple[Callable[..., object], str]] = {
    "data.name": _one_of(
        "digits", "toy", "faces", "tfds_images", "image_folder", "cifar_archive", "arrays"
    ),
    "data.heldout_fraction": ((lambda v: 0 < v < 1), "between 0 and 1, both excluded"),
    "data.validation_fraction": ((lambda v: 0 <= v < 1), "at least 0 and below 1"),
    "data.split_seed": _seed(),
    # Of fewer points, rare defects cannot be told from true points.
    "data.num_train": _range(1000, 100_000_000),
    "data.num_heldout": _range(2, 100_000_000),
    "data.attributes": _texts(),
    "data.held_out": _texts(),
    "data.correlation": _range(0, 1),
    "data.resolution": _range(0, 16_384),
    "data.crop": (
        lambda v: v in ("center", "none") or re.fullmatch(r"\d+,\d+,[1-9]\d*,[1-9]\d*", v),
        "center, none or top,left,height,width in pixels",
    ),
    "data.in_memory": _one_of("auto", "always", "never"),
    "data.max_examples": _range(0),
    "data.decoder": (
        lambda v: re.fullmatch(r"([A-Za-z_][\w.]*:[A-Za-z_]\w*)?", v),
        "empty or package.module:function",
    ),
    "conditioning.kind": _one_of(*KINDS),
    "conditioning.semantics": _one_of("mixture", "example"),
    "conditioning.embedding": _one_of("mean_embedding", "draws", "table"),
    "conditioning.features": _one_of("pca", "raw", "own", "classifier"),
    "conditioning.feature_dim": _range(1, 65_536),
    "conditioning.num_components": _range(1, 1_000_000),
    "conditioning.fit": _one_of("em", "k_means"),
    "conditioning.responsibilities": _one_of("soft", "hard", "random"),
    "conditioning.covariance": _one_of("full", "tied", "diag", "spherical"),
    "conditioning.covariance_floor": _above(0),
    "conditioning.em_starts": _range(1, 1000),
    "conditioning.em_iterations": _range(1, 1_000_000),
    "conditioning.em_tolerance": _range(0),
    "conditioning.em_max_points": _range(1),
    "conditioning.embedding_features": _range(1, 65_536),
    "conditioning.num_draws": _range(1, 65_536),
    "conditioning.dropout": _range(0, 1),
    "conditioning.concentration": (
        # Beyond, weights are one-hot or all at the centre to float32, and drawing may not end.
        lambda v: len(v) == 2 and 1e-6 <= v[0] <= v[1] <= 1e6,
        "two numbers from 1e-06 to 1e+06, the smaller first",
    ),
    "conditioning.one_hot_share": _range(0, 1),
    "conditioning.shares": (
        lambda v: len(v) == 2 and min(v) >= 0 and sum(v) <= 1,
        "two numbers, neither negative, that add to at most 1",
    ),
    "conditioning.bank_size": _range(1, 100_000_000),
    "network.name": _one_of("unet", "mlp"),
    "network.channels": _range(1, 8192),
    "network.channel_mult": (
        lambda v: 0 < len(v) <= 12 and all(type(m) is int and 0 < m <= 1024 for m in v),
        "a tuple of positive integers, 1 to 12 of them and none above 1024",
    ),
    "network.num_blocks": _range(1, 100),
    "network.attention_resolutions": (
        lambda v: all(type(r) is int and 0 < r <= 16_384 for r in v),
        "a tuple of positive integers, none above 16384",
    ),
    "network.head_channels": _range(1, 16_384),
    "network.width": _range(1, 65_536),
    "network.dropout": ((lambda v: 0 <= v < 1), "at least 0 and below 1"),
    "network.dtype": _one_of("float32", "bfloat16"),
    "network.log_variance_features": _range(1, 65_536),
    "diffusion.sigma_data": _range(0),
    "diffusion.preconditioning": _one_of("edm", "noise"),
    "diffusion.weighting": _one_of("denoising", "likelihood"),
    "diffusion.law": _one_of("given", "auto"),
    "diffusion.sigma_log_mean": _range(-30, 30),
    "diffusion.sigma_log_std": _above(0, 30),
    "optimizer.schedule": _one_of("edm2", "cosine", "constant"),
    "optimizer.learning_rate": _above(0),
    "optimizer.warmup_steps": _range(0),
    "optimizer.decay_steps": _range(1),
    "optimizer.beta1": ((lambda v: 0 <= v < 1), "at least 0 and below 1"),
    "optimizer.beta2": ((lambda v: 0 <= v < 1), "at least 0 and below 1"),
    "optimizer.epsilon": _above(0),
    "optimizer.clip_norm": _range(0),
    "classifier.loss": _one_of("ngmg", "cross_entropy"),
    "classifier.form": _one_of("density", "log"),
    "classifier.scales": (
        lambda v: all(math.isfinite(s) and s > 0 for s in v),
        "a tuple of positive numbers, empty for the mixture's covariances",
    ),
    "classifier.name": _one_of("conv", "mlp"),
    "classifier.width": _range(1, 65_536),
    "classifier.embedding_dim": _range(1, 65_536),
    "classifier.optimizer": _one_of("adam", "sgd"),
    "classifier.learning_rate": _above(0),
    "classifier.momentum": ((lambda v: 0 <= v < 1), "at least 0 and below 1"),
    "ngmg.weight": _range(0),
    "contrastive.weight": _range(0),
    "contrastive.zeta": (
        lambda v: len(v) == 2 and 0 < v[0] <= v[1] and math.isfinite(v[1]),
        "two positive numbers, the smaller first",
    ),
    "contrastive.zeta_law": _one_of("uniform", "logistic"),
    "contrastive.points": _range(2, 1_000_000),
    "contrastive.num_points": (
        lambda v: 0 < v <= 65_536 and v % 2 == 0,
        "positive and even, at most 65536",
    ),
    "contrastive.importance": ((lambda v: 0 <= v < 1), "at least 0 and below 1"),
    "contrastive.chunk": _range(1),
    "training.task": _one_of(*TASKS),
    "training.target": _one_of("data", "exact"),
    "training.seed": _seed(),
    "training.num_steps": _range(1),
    "training.batch_size": _range(1, 1_000_000),
    "training.microbatch": _range(0, 1_000_000),
    "training.steps_per_call": _range(1, 1_000_000),
    "training.ema_widths": (
        lambda v: len(v) > 0 and all(map(is_ema_width, v)) and len(set(v)) == len(v),
        "a tuple of different numbers from 1e-06 to below 0.28",
    ),
    "training.max_nonfinite": _range(0),
    "training.log_every": _range(1),
    "training.heldout_every": _range(0),
    "training.profile": _range(0),
    "checkpoint.every": _range(1),
    "checkpoint.keep": _range(1, 1_000_000),
    "checkpoint.snapshot_every": _range(0),
    "sample.num": _range(1, 10_000_000),
    "sample.name": _file_name(),
    "sample.component": _one_of("drawn", "literal"),
    "sample.seed": _seed(),
    "sample.batch_size": _range(1, 1_000_000),
    "sample.sampler": _one_of("heun", "euler", "dpmpp_2m", "ancestral"),
    "sample.steps": _range(1, 100_000),
    "sample.sigma_min": _range(*SAMPLER["sigma_min"]),
    "sample.sigma_max": _range(0),
    "sample.rho": _range(*SAMPLER["rho"]),
    "sample.churn": _range(*SAMPLER["churn"]),
    "sample.churn_min": _range(*SAMPLER["churn_min"]),
    "sample.churn_max": _range(*SAMPLER["churn_max"]),
    "sample.churn_noise": _range(*SAMPLER["churn_noise"]),
    "sample.eta": _range(*SAMPLER["eta"]),
    "sample.parallel_window": _range(*SAMPLER["window"]),
    "sample.parallel_tolerance": _range(*SAMPLER["tolerance"]),
    "sample.ema": _ema_width(),
    "sample.step": _range(0),
    "guidance.kind": _one_of("none", "auto", "classifier_free", "mixture"),
    "guidance.scale": _range(-1_000_000, 1_000_000),
    "guidance.interval": (
        lambda v: len(v) == 2 and 0 <= v[0] < v[1] and math.isfinite(v[1]),
        "two noise levels, not negative, the lower one first",
    ),
    "guidance.limit": _range(0),
    "guidance.guide_step": _range(0),
    "guidance.guide_ema": _ema_width(),
    "guidance.blur": _one_of("covariances", "weights"),
    "guidance.blur_amount": _range(0),
    "guidance.energy": _range(0),
    "evaluation.split": _one_of("heldout", "validation"),
    "evaluation.blocks": _range(1, 1000),
    "evaluation.max_samples": _range(2, 10_000_000),
    "evaluation.max_reference": _range(2, 100_000_000),
    "evaluation.neighbours": _range(1, 10_000),
    "evaluation.features": (
        lambda v: v in ("judge", "pca") or v.startswith("file:"),
        "judge, pca or file:PATH",
    ),
    "evaluation.judges": _range(1, 100),
    "evaluation.judge_seed": _seed(),
    "evaluation.judge_epochs": _range(1, 10_000),
    "evaluation.loss_levels": _range(1, 1000),
    "evaluation.name": _file_name(),
}

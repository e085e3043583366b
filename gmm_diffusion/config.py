"""Every setting of a run, with its default, and the checks that come before any work."""

import difflib
import functools
import math
import re
from collections.abc import Callable

from ml_collections import ConfigDict

from gmm_diffusion import paths
from gmm_diffusion.errors import InputError
from gmm_diffusion.tasks import TASKS

# Groups that define the model: on resume and in --mode=sample they come from the workdir.
MODEL_GROUPS = (
    "data",
    "conditioning",
    "network",
    "diffusion",
    "optimizer",
    "classifier",
    "ngmg",
    "contrastive",
)
# Single fields of other groups that a resumed run must share.
MODEL_FIELDS = (
    "training.task",
    "training.target",
    "training.seed",
    "training.batch_size",
    "training.ema_widths",
    "training.init_from",
)
# Single fields of these groups that a resumed run may change: what bounds memory, where the data
# are and wait, and what makes pictures of them. Whether they are the same data is compared by
# `runs.data_fingerprint`.
FREE_FIELDS = (
    "contrastive.chunk",
    "data.data_dir",
    "data.heldout_dir",
    "data.in_memory",
    "data.cache",
    "data.decoder",
)
# Fields that hold a path from the current directory; it is stored as an absolute one.
PATH_FIELDS = (
    "data.data_dir",
    "data.heldout_dir",
    "conditioning.classifier",
    "ngmg.workdir",
    "training.init_from",
    "guidance.guide",
    "guidance.classifier",
    "evaluation.statistics",
)
# What a run did that was written before a field existed, where that is not the field's default:
# dotted name -> value. `config.json` of such a run lacks the field.
EARLIER: dict[str, object] = {
    "conditioning.one_hot_share": 0.0,
    "contrastive.importance": 0.0,
    "data.validation_fraction": 0.0,
    "network.attention_middle": False,
    "sample.component": "literal",
}
# The keys of `conditioning.KINDS`, and none; those whose classifiers learn attributes. By name, as
# a bad flag is refused before jax has loaded; a test holds them equal to the table.
KINDS = ("gmm", "attributes", "class", "clusters", "none")
KINDS_OF_ATTRIBUTES = ("attributes",)
# Where sampling starts in EDM (arXiv 2206.00364).
SIGMA_MAX = 80.0
# Groups that a trained model can be sampled and evaluated with again and again.
SAMPLING_GROUPS = ("sample", "guidance", "evaluation")


def default() -> ConfigDict:
    """All fields; a config file overrides only what differs."""
    c = ConfigDict()

    c.data = data = ConfigDict()
    # A key of data.DATASETS: digits, toy, faces, tfds_images, image_folder, cifar_archive or
    # arrays, which may be given in Python, too.
    data.name = "digits"
    data.flip = False  # mirror images left to right with probability 1/2 in training
    data.heldout_fraction = 0.2  # share held out where the source has no split of its own
    # Share of the training split that is for choices, such as the number of updates; 0 is none.
    # `toy` and `faces` draw it instead, as many as are held out.
    data.validation_fraction = 0.1
    data.split_seed = 0  # which examples are held out; the seed of `toy` and `faces`
    data.toy_name = "ring"  # a key of data.toy.MIXTURES
    data.num_train = 65536  # points or images drawn by `toy` and `faces` for training
    data.num_heldout = 8192  # points or images drawn by `toy` and `faces` and held out
    data.attributes = ()  # names of the attributes that count, in order; empty takes all there are
    # faces: combinations that training never shows, such as ("Eyeglasses=1,Wearing_Hat=1",).
    data.held_out = ()
    data.correlation = 0.5  # faces: of the attributes, 0 (independent) to 1 (as in data.faces)
    data.tfds_name = ""  # name of a TFDS image dataset, for example cifar10
    # image_folder: the folder; cifar_archive: the archive; arrays: an .npz or a folder of .npy;
    # TFDS: its folder, empty is its default.
    data.data_dir = ""
    # image_folder: a folder of held-out images; empty looks for one in data_dir, or for a list.
    data.heldout_dir = ""
    # image_folder: many decoded images are kept in the user's cache until one of the files changes.
    data.cache = True
    # arrays: what makes pictures of float latents, package.module:function; empty is nothing.
    data.decoder = ""
    data.train_split = "train"  # TFDS split to train on
    data.heldout_split = "test"  # TFDS split held out; empty splits heldout_fraction off train
    data.resolution = 0  # height and width of images; 0 keeps theirs, and is 32 for `faces`
    # What is cut out first: center (a square, if resized), none (squeezed), top,left,height,width.
    data.crop = "center"
    # Whether images of image_folder and tfds_images are held in memory: always, never (streamed),
    # or auto, where decoded they take at most half of what is free.
    data.in_memory = "auto"
    data.max_examples = 0  # use at most this many examples of each split of images; 0 uses all

    c.conditioning = conditioning = ConfigDict()
    # gmm (fitted), attributes (laid out), class (labels), clusters (k-means as labels) or none
    conditioning.kind = "gmm"
    conditioning.semantics = "example"  # example or mixture; see docs/method.md
    conditioning.embedding = "mean_embedding"  # mean_embedding, draws or table
    # Space of the fitted mixture: pca, raw, own (the features of data.name arrays) or classifier.
    conditioning.features = "pca"
    conditioning.classifier = ""  # classifier: workdir of a run with one
    conditioning.feature_dim = 16  # D, principal components of pca
    conditioning.num_components = 40  # K; with per_class they are shared out over the classes
    conditioning.per_class = True  # fit a mixture, or clusters, to each class; needs labels
    # gmm: what fits it, em, or k_means: its clusters as equal spheres of one variance.
    conditioning.fit = "em"
    # gmm: what an example weighs: soft, hard (one-hot in the largest) or random, a control: one-hot
    # in a component, of its class where they have one, drawn without a look at the features.
    conditioning.responsibilities = "soft"
    conditioning.covariance = "diag"  # em: full, tied, diag or spherical
    conditioning.covariance_floor = 1e-3  # smallest variance, as a fraction of the features'
    conditioning.em_starts = 4  # EM, or k-means, keeps the best fit of so many starts
    conditioning.em_iterations = 200  # most iterations of EM
    conditioning.em_tolerance = 1e-5  # EM stops when the mean log-likelihood rises by less
    conditioning.em_max_points = 200_000  # EM sees at most this many training examples
    conditioning.embedding_features = 256  # F of mean_embedding
    conditioning.num_draws = 64  # L of draws
    conditioning.dropout = 0.0  # probability of the null embedding in training
    conditioning.concentration = (0.1, 30.0)  # range of the Dirichlet's total mass, for mixture
    # Share of training weights on one component, for mixture: all that sample.component drawn asks.
    # For literal take 0.
    conditioning.one_hot_share = 0.9
    # Of the other weights, shares over all components and within one class; the rest are blends of
    # two classes. Without classes a component is a class of its own: fewer within, say (0.4, 0.3).
    conditioning.shares = (0.2, 0.6)
    conditioning.bank_size = 10_000  # training weights kept for sampling, for example

    c.network = network = ConfigDict()
    network.name = "unet"  # unet for images, mlp for vectors
    network.channels = 32  # unet: channels at full resolution
    network.channel_mult = (1, 2)  # unet: multiplier of each resolution
    network.num_blocks = 1  # unet: blocks a resolution; mlp: residual blocks
    network.attention_resolutions = (4,)  # unet: heights with self-attention
    network.attention_middle = True  # unet: the decoder's first block attends at any height
    network.head_channels = 64  # unet: channels of an attention head
    network.width = 128  # mlp: hidden features
    network.dropout = 0.0  # dropout of activations in training
    network.dtype = "float32"  # of the computation: float32 or bfloat16
    network.log_variance_features = 128  # Fourier features of the loss's learned log-variance

    c.diffusion = diffusion = ConfigDict()
    diffusion.sigma_data = 0.0  # RMS of the centred data; 0 measures it on the training split
    # What the network predicts: edm (arXiv 2206.00364) or noise (arXiv 2006.11239).
    diffusion.preconditioning = "edm"
    # What a noise level counts: denoising, by its learned uncertainty, or likelihood, which draws
    # ln sigma evenly, up to three standard deviations of its law from the mean.
    diffusion.weighting = "denoising"
    # The law of ln sigma in training: given, by the next two fields, or auto, fitted to vectors.
    diffusion.law = "given"
    diffusion.sigma_log_mean = -1.2  # mean of ln sigma in training
    diffusion.sigma_log_std = 1.2  # standard deviation of ln sigma in training

    c.optimizer = optimizer = ConfigDict()
    # edm2 (inverse square root), constant, or cosine, which ends at training.num_steps: more steps
    # on a finished run take its rate up again, and the log says so.
    optimizer.schedule = "edm2"
    optimizer.learning_rate = 1e-2  # peak
    optimizer.warmup_steps = 100  # linear ramp
    optimizer.decay_steps = 500  # edm2: where the rate starts to fall
    optimizer.beta1 = 0.9  # Adam's decay of the mean of gradients
    optimizer.beta2 = 0.99  # Adam's decay of the mean of squared gradients
    optimizer.epsilon = 1e-8  # Adam's epsilon
    optimizer.clip_norm = 0.0  # bound of the gradient's norm; 0 is none

    c.classifier = classifier = ConfigDict()
    classifier.loss = "ngmg"  # ngmg (points in the mixture's space) or cross_entropy (logits)
    classifier.form = "density"  # ngmg: density or log
    # ngmg: times the median distance of a centre to its nearest; () takes the covariances instead.
    classifier.scales = (0.5, 1.0, 2.0, 4.0)
    classifier.name = "conv"  # conv for images, mlp for images and vectors
    classifier.width = 32  # conv: channels at full resolution; mlp: hidden features
    classifier.embedding_dim = 64  # of the last hidden layer
    classifier.normalize = True  # magnitude-preserving layers; False takes ordinary ones
    classifier.noisy = False  # it sees noisy data and their noise level, too
    classifier.optimizer = "adam"  # adam or sgd; its schedule is that of the group optimizer
    classifier.learning_rate = 1e-2  # peak
    classifier.momentum = 0.0  # of sgd

    c.ngmg = ngmg = ConfigDict()
    ngmg.weight = 0.0  # of the classifier's cost of denoised data in a denoiser's loss; 0 is none
    ngmg.workdir = ""  # run of a frozen classifier; empty trains one beside
    ngmg.on_denoised = True  # one beside learns from denoised data, too
    ngmg.teach_denoiser = True  # whether the term's gradient reaches the denoiser
    ngmg.teach_classifier = False  # whether it reaches a classifier beside

    c.contrastive = contrastive = ConfigDict()
    contrastive.weight = 0.0  # of the contrastive loss in a denoiser's loss; 0 is none
    contrastive.zeta = (0.05, 0.5)  # range of the smoothing's noise, in data units
    # The law of its logarithm: uniform, or logistic, about the middle, a sixth of the range wide.
    contrastive.zeta_law = "uniform"
    contrastive.points = 32  # examples of a batch that take part, half of them smoothed
    # Evaluations of the integrand a point, two rows of network each. 8 do for images; points in the
    # plane need 256, see contrastive_spread in the log: 0.3 adds up to 0.01 to the loss.
    contrastive.num_points = 8
    # Share of the noise levels taken where the learned uncertainty says that the ratio is decided.
    contrastive.importance = 0.8
    contrastive.chunk = 2048  # most rows of network in one call; more are recomputed

    c.training = training = ConfigDict()
    training.task = "denoiser"  # what is trained: denoiser or classifier
    # What a denoiser regresses on: data, or exact, the best denoiser of data of known density.
    training.target = "data"
    training.seed = 0  # of parameters, noise and the order of examples
    training.init_from = ""  # workdir of a run whose average and statistics this one starts from
    training.num_steps = 1200  # updates in all
    training.batch_size = 128  # examples an update, over all devices
    # Examples a device whose gradient is taken at once; 0 takes that of all. This and the next save
    # memory, and change results by rounding alone.
    training.microbatch = 0
    # Whether the gradient computes the activations in the network's blocks again.
    training.rematerialize = False
    training.steps_per_call = 10  # updates in one compiled call
    training.ema_widths = (0.05, 0.10)  # relative widths of the parameter averages
    training.max_nonfinite = 0  # skipped updates in a row that are allowed
    training.log_every = 50  # steps between lines of metrics.jsonl
    training.heldout_every = 400  # steps between held-out losses and sheets of samples; 0 is never
    # The update whose call is traced for TensorBoard's profiler, into the workdir; 0 is none.
    training.profile = 0
    training.list_parameters = False  # the log shows each parameter, not each block of the network
    training.tensorboard = True  # write TensorBoard events where TensorFlow is installed

    c.logging = logging = ConfigDict()
    # Curves, sheets and evaluations go to Weights & Biases, too, under one id also after a resume.
    logging.wandb = False

    c.checkpoint = checkpoint = ConfigDict()
    checkpoint.every = 400  # steps between checkpoints; one is always written at the end
    checkpoint.keep = 3  # how many to keep
    # Steps between snapshots of the averages, all kept: what other widths are made of. 0 is never.
    checkpoint.snapshot_every = 50

    c.sample = sample = ConfigDict()
    sample.num = 100  # samples to draw
    # train, class:7, component:12, 0.5*class:3+0.5*class:8, like:IMAGE.png, features:FILE.npy
    sample.condition = "train"
    # Under mixture semantics, drawn asks each sample for one component k ~ w, literal for w itself.
    sample.component = "drawn"
    sample.name = ""  # of the files in samples/; "" makes it of the condition and the guidance
    sample.seed = 0  # sample i depends on the seed and i only
    sample.batch_size = 128  # samples drawn at once, over all devices
    sample.sampler = "heun"  # a key of sampling.samplers.SAMPLERS
    sample.steps = 18  # of the sampler
    sample.sigma_min = 0.002  # last positive noise level
    sample.sigma_max = 0.0  # first noise level; 0 takes 80, or what diffusion.law auto has fitted
    sample.rho = 7.0  # exponent of the grid
    sample.churn = 0.0  # heun: new noise over the run (EDM's S_churn)
    sample.churn_min = 0.0  # heun: churn at and above this noise level
    sample.churn_max = 1000.0  # heun: churn at and below this noise level
    sample.churn_noise = 1.0  # heun: standard deviation of the new noise
    sample.eta = 1.0  # ancestral: share of the new noise, 0 is DDIM
    sample.parallel_window = 0  # steps of a sample that are worked on at once; 0 is one by one
    # Parallel: a point is found when a round moves it by less, in units of its step's noise.
    sample.parallel_tolerance = 0.1
    sample.ema = 0.05  # width of the average to sample from, any; 0 takes the raw parameters
    sample.step = 0  # which checkpoint or snapshot; 0 is the newest good one

    c.guidance = guidance = ConfigDict()
    guidance.kind = "none"  # none, auto (a worse model), classifier_free, mixture (a blurred one)
    guidance.scale = 1.0  # D_guide + scale (D_main - D_guide); 1 is no guidance
    guidance.interval = (0.0, 1000.0)  # noise levels that are guided
    guidance.limit = 0.0  # bound of what guidance adds, in units of sigma; 0 is none
    guidance.guide = ""  # auto: workdir of the guide; empty is an earlier step of this run
    guidance.guide_step = 0  # auto: step of the guide; 0 is its newest
    guidance.guide_ema = 0.05  # auto: width of the guide's average; 0 takes the raw parameters
    guidance.blur = "covariances"  # mixture: what is blurred, covariances or weights
    guidance.blur_amount = 1.0  # mixture: how much; weights from 0 to 1
    guidance.energy = 0.0  # pull to where a classifier sees the condition, on top; 0 is none
    guidance.classifier = ""  # energy: workdir of the classifier; empty is this run's own

    c.evaluation = evaluation = ConfigDict()
    evaluation.split = "heldout"  # floor: heldout, for tables, or validation, for choices
    evaluation.blocks = 3  # independent sets of samples, each as many as examples in the split
    evaluation.max_samples = 5000  # most samples in one block
    evaluation.max_reference = 50_000  # most training examples that samples are compared with
    evaluation.neighbours = 3  # k of precision, recall and coverage
    evaluation.features = "judge"  # space of the Frechet distance: judge, pca or file:PATH
    # File of make_stats, for the Frechet distance to it; "" takes the training split of the run.
    evaluation.statistics = ""
    evaluation.judges = 5  # metrics are means over so many; never used in training or guidance
    evaluation.judge_seed = 1000  # of the first judge; the others have the next ones
    evaluation.judge_dir = ""  # folder of judge.npz, from the workdir; ".." for several runs
    evaluation.judge_epochs = 20  # passes of a judge over the training split
    evaluation.loss_levels = 8  # noise levels of the held-out denoising loss
    evaluation.name = ""  # writes evaluations/NAME.json and leaves evaluation.json alone
    evaluation.at_end = True  # evaluate at the end of training; a guide, say, needs none

    return c.lock()


# What config files and the command line start from.
get_config = default


def _one_of(*names: str) -> tuple[Callable, str]:
    return (lambda v: v in names), f"one of {', '.join(names)}"


# Where no lower bound is one that nobody needs to exceed: counts are int32 on a device.
_MOST = 2**31 - 1


def _range(low: float, high: float = _MOST) -> tuple[Callable, str]:
    text = f"at least {low:g}, and at most" if high == _MOST else f"from {low:g} to"
    return (lambda v: low <= v <= high), f"{text} {high:.10g}"


def _above(low: float, high: float = _MOST) -> tuple[Callable, str]:
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
    "data.num_heldout": _range(1, 100_000_000),
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
        lambda v: len(v) == 2 and 0 < v[0] <= v[1] and math.isfinite(v[1]),
        "two positive numbers, the smaller first",
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
        lambda v: len(v) > 0 and all(0 < w < 0.28 for w in v) and len(set(v)) == len(v),
        "a tuple of different numbers between 0 and 0.28",
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
    "sample.sigma_min": _above(0),
    "sample.sigma_max": _range(0),
    "sample.rho": _range(0.1, 1000),
    "sample.churn": _range(0),
    "sample.churn_min": _range(0),
    "sample.churn_max": _range(0),
    "sample.churn_noise": _range(0),
    "sample.eta": _range(0, 1),
    "sample.parallel_window": _range(0, 100_000),
    "sample.parallel_tolerance": _range(0),
    "sample.ema": ((lambda v: 0 <= v < 0.28), "at least 0 and below 0.28"),
    "sample.step": _range(0),
    "guidance.kind": _one_of("none", "auto", "classifier_free", "mixture"),
    "guidance.scale": _range(-1_000_000, 1_000_000),
    "guidance.interval": (
        lambda v: len(v) == 2 and 0 <= v[0] < v[1] and math.isfinite(v[1]),
        "two noise levels, not negative, the lower one first",
    ),
    "guidance.limit": _range(0),
    "guidance.guide_step": _range(0),
    "guidance.guide_ema": _range(0, 0.28),
    "guidance.blur": _one_of("covariances", "weights"),
    "guidance.blur_amount": _range(0),
    "guidance.energy": _range(0),
    "evaluation.split": _one_of("heldout", "validation"),
    "evaluation.blocks": _range(1, 1000),
    "evaluation.max_samples": _range(1, 10_000_000),
    "evaluation.max_reference": _range(1, 100_000_000),
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


def fields(config: ConfigDict) -> dict[str, object]:
    """Every leaf by its dotted name."""
    return {
        f"{group}.{name}": value
        for group, members in config.items()
        for name, value in members.items()
    }


def sampling_fields(config: ConfigDict) -> dict[str, object]:
    """The leaves of the groups in SAMPLING_GROUPS by their dotted names, as JSON stores them."""
    return plain_fields(config, SAMPLING_GROUPS)


def plain_fields(config: ConfigDict, groups: tuple[str, ...]) -> dict[str, object]:
    """The leaves of some groups by their dotted names, as JSON stores them."""
    return {f: _plain(v) for f, v in fields(config).items() if f.split(".")[0] in groups}


@functools.cache
def _usual():
    """The default of every field; read it, and change nothing."""
    return fields(default())


def check_name(field: str) -> None:
    """Raises InputError, with a suggestion, if `field` is not the dotted name of a setting."""
    known = _usual()
    if field not in known:
        # Others' words.
        ours = re.sub(r"^data\.(test|val|valid|validation|eval)_", "data.heldout_", field)
        ours = re.sub(r"^data\.train(ing)?_dir$", "data.data_dir", ours)
        near = difflib.get_close_matches(ours, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "config.py lists all fields."
        raise InputError(f"{field or repr(field)} is not a setting; {hint}")


def check_fields(config: ConfigDict) -> None:
    """Raises InputError unless `config` has the fields of `default`, each with a value of its type.

    A locked config guarantees most of this, but a config file may return anything.
    """
    if not isinstance(config, ConfigDict) or not all(
        isinstance(members, ConfigDict) for members in config.values()
    ):
        raise InputError("a config must be a ConfigDict made by config.default().")
    values = fields(config)
    for field in values:
        check_name(field)
    for field, usual in _usual().items():
        if field not in values:
            raise InputError(f"{field} is missing; a config must start from config.default().")
        value, kind = values[field], type(usual)
        if type(value) is not kind and (kind, type(value)) not in ((float, int), (tuple, list)):
            raise InputError(f"{field} is {value!r}; it must be of type {kind.__name__}.")


def validate(config: ConfigDict) -> None:
    """Checks every field and the fields that depend on each other, before any work.

    Raises:
      InputError: names the field, its value and what is valid.
    """
    check_fields(config)
    values = fields(config)
    for field, (check, valid) in RULES.items():
        value = values[field]
        try:
            good = check(value)
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise InputError(f"{field} is {value!r}; it must be {valid}.")

    def refuse(field: str, valid: str):
        raise InputError(f"{field} is {values[field]!r}; {valid}.")

    if config.data.in_memory == "never" and config.data.name not in ("image_folder", "tfds_images"):
        refuse("data.in_memory", f"data.name {config.data.name} is held in memory, auto or always")
    if config.data.name == "tfds_images" and not config.data.tfds_name:
        refuse("data.tfds_name", "data.name tfds_images needs the name of a TFDS dataset")
    if config.data.heldout_dir and config.data.name != "image_folder":
        refuse("data.heldout_dir", f"data.name {config.data.name} has no folder of that kind")
    if config.data.name in ("image_folder", "cifar_archive") and not config.data.data_dir:
        refuse("data.data_dir", f"data.name {config.data.name} needs its path")
    _check_arrays(config, refuse)
    if config.conditioning.features == "classifier" and not config.conditioning.classifier:
        refuse("conditioning.features", "it needs conditioning.classifier, the workdir of a run")
    _check_fit(config, refuse)
    if _holds_vectors(config):
        if config.network.name != "mlp":
            refuse("network.name", "the vectors of data.name toy need mlp")
        if config.data.flip:
            refuse("data.flip", "only images can be mirrored")
    elif config.network.name != "unet":
        refuse("network.name", f"the images of data.name {config.data.name} need unet")
    if config.evaluation.split == "validation" and not config.data.validation_fraction:
        refuse("evaluation.split", "data.validation_fraction 0 leaves no such split")
    _check_noise(config, refuse)
    if config.sample.parallel_window and config.sample.sampler == "dpmpp_2m":
        refuse("sample.parallel_window", "sample.sampler dpmpp_2m remembers steps, and needs 0")
    tracked = (0, *config.training.ema_widths)
    if config.sample.ema not in tracked and not config.checkpoint.snapshot_every:
        refuse(
            "sample.ema",
            f"with checkpoint.snapshot_every 0 it must be one of {', '.join(map(str, tracked))}",
        )
    _check_guidance(config, refuse)
    _check_task(config, refuse)
    _check_classifier(config, refuse)
    _check_contrastive(config, refuse)
    _check_microbatch(config, refuse)
    _check_target(config, refuse)
    for i, mult in enumerate(config.network.channel_mult):
        channels = config.network.channels * mult
        heads = max(channels // config.network.head_channels, 1)
        if config.network.name == "unet" and channels % heads:
            refuse(
                "network.head_channels",
                f"it must divide the {channels} channels of resolution {i}",
            )


def check_splits(config: ConfigDict) -> None:
    """For a new run, raises InputError for splits of TFDS that were chosen for other data.

    Earlier versions took such a run, and passed over the choice; it goes on as it was.
    """
    name, usual = config.data.name, _usual()
    for field in ("train_split", "heldout_split"):
        value = config.data[field]
        if name != "tfds_images" and value != usual[f"data.{field}"]:
            hint = "; data.heldout_dir names a folder" if name == "image_folder" else ""
            raise InputError(
                f"data.{field} is {value!r}; data.name {name} has no splits of that kind, and "
                f"needs {usual[f'data.{field}']!r}{hint}."
            )


def _check_arrays(config: ConfigDict, refuse: Callable) -> None:
    name, usual = config.data.name, _usual()
    if name != "arrays":
        if config.data.decoder:
            refuse("data.decoder", f"the data of data.name {name} are no latents")
        if config.conditioning.features == "own":
            refuse("conditioning.features", f"data.name {name} has none; arrays may have some")
        return
    for field in ("resolution", "crop"):
        if config.data[field] != usual[f"data.{field}"]:
            refuse(f"data.{field}", "arrays are taken as they are")


def _check_fit(config: ConfigDict, refuse: Callable) -> None:
    group, usual = config.conditioning, _usual()
    for field in ("fit", "responsibilities"):
        if group.kind != "gmm" and group[field] != usual[f"conditioning.{field}"]:
            refuse(f"conditioning.{field}", f"it is of conditioning.kind gmm, and not {group.kind}")
    one = (usual["conditioning.covariance"], "spherical")
    if group.fit == "k_means" and group.covariance not in one:
        refuse("conditioning.covariance", "conditioning.fit k_means has one variance; use em")
    if group.responsibilities == "random" and group.features == "classifier":
        # Its features are rounded as the machine likes, and the draw is by their bits.
        refuse("conditioning.responsibilities", "the features classifier need soft or hard")


def _holds_vectors(config: ConfigDict) -> bool:
    given = config.data.name == "arrays" and config.network.name == "mlp"
    return given or config.data.name == "toy"


def _conditioned(config: ConfigDict) -> bool:
    return config.conditioning.kind != "none"


def _check_task(config: ConfigDict, refuse: Callable) -> None:
    values, task = fields(config), config.training.task
    for field, needed in TASKS[task].refuses.items():
        if values[field] != needed:
            refuse(field, f"it is of a denoiser's loss; training.task {task} needs {needed}")


def _check_classifier(config: ConfigDict, refuse: Callable) -> None:
    alone = TASKS[config.training.task].classifies
    if not alone and not config.ngmg.weight:
        return
    if not _conditioned(config):
        field = "training.task" if alone else "ngmg.weight"
        refuse(field, "a classifier needs a mixture, and conditioning.kind none has none")
    if config.conditioning.kind in KINDS_OF_ATTRIBUTES and not config.classifier.scales:
        refuse("classifier.scales", "the centres of attributes have no covariances; give scales")
    if config.classifier.name == "conv" and _holds_vectors(config):
        refuse("classifier.name", f"the vectors of data.name {config.data.name} need mlp")


def _check_contrastive(config: ConfigDict, refuse: Callable) -> None:
    group = config.contrastive
    if not group.weight:
        return
    if config.training.batch_size % group.points:
        refuse(
            "contrastive.points",
            f"it must divide training.batch_size {config.training.batch_size}",
        )
    if config.diffusion.law == "given":
        check_zeta(config, config.diffusion.sigma_log_mean, config.diffusion.sigma_log_std)


def _check_microbatch(config: ConfigDict, refuse: Callable) -> None:
    group = config.training
    if not group.microbatch:
        return
    if group.batch_size % group.microbatch:
        refuse("training.microbatch", f"it must divide training.batch_size {group.batch_size}")
    every = group.batch_size // config.contrastive.points
    if config.contrastive.weight and group.microbatch % every:
        refuse(
            "training.microbatch",
            f"contrastive.points {config.contrastive.points} of training.batch_size "
            f"{group.batch_size} examples need a multiple of {every}",
        )


def check_zeta(config: ConfigDict, log_mean: float, log_std: float) -> None:
    """Raises InputError for `contrastive.zeta` beyond where this law of ln sigma trains."""
    if not config.contrastive.weight:
        return
    # The denoiser of smoothed data is asked at sqrt(sigma^2 + zeta^2).
    highest = math.exp(log_mean + 3 * log_std)
    if config.contrastive.zeta[1] > highest / 2:
        raise InputError(
            f"contrastive.zeta is {config.contrastive.zeta!r}; it must stay below half of "
            f"{highest:.3g}, where training ends."
        )


def _check_noise(config: ConfigDict, refuse: Callable) -> None:
    group, usual = config.diffusion, _usual()
    if group.law == "auto":
        if not _holds_vectors(config):
            refuse("diffusion.law", f"the images of data.name {config.data.name} need given")
        for name in ("sigma_log_mean", "sigma_log_std"):
            if group[name] != usual[f"diffusion.{name}"]:
                refuse(f"diffusion.{name}", "diffusion.law auto fits it; use diffusion.law given")
    highest = config.sample.sigma_max or SIGMA_MAX
    if config.sample.sigma_min >= highest:
        refuse("sample.sigma_min", f"it must be below sample.sigma_max {highest}")


def _check_target(config: ConfigDict, refuse: Callable) -> None:
    if config.training.target == "data":
        return
    if config.data.name != "toy":
        refuse("training.target", f"the density of data.name {config.data.name} is not known")
    if config.contrastive.weight:
        # Its control variate reads the spread of the data off the loss's learned uncertainty.
        refuse("training.target", "contrastive.weight above 0 needs data")


def _check_guidance(config: ConfigDict, refuse: Callable) -> None:
    kind, conditioning = config.guidance.kind, config.conditioning
    if config.guidance.energy and not _conditioned(config):
        refuse("guidance.energy", "conditioning.kind none leaves no condition to pull to")
    if config.guidance.energy and not (config.guidance.classifier or config.ngmg.weight):
        refuse("guidance.energy", "a run without ngmg.weight needs guidance.classifier, a workdir")
    if kind == "auto" and not config.guidance.guide and not config.guidance.guide_step:
        refuse("guidance.guide", "kind auto needs the workdir of a guide, or guidance.guide_step")
    if kind in ("classifier_free", "mixture") and not _conditioned(config):
        refuse("guidance.kind", "conditioning.kind none leaves no condition to worsen")
    if kind == "classifier_free" and not conditioning.dropout:
        refuse("guidance.kind", "it needs a run with conditioning.dropout above 0")
    if kind == "mixture" and config.guidance.blur == "weights":
        if config.guidance.blur_amount > 1:
            refuse("guidance.blur_amount", "weights are blurred by a share from 0 to 1")
    elif kind == "mixture" and conditioning.embedding == "table":
        refuse("guidance.blur", "the embedding table has no covariances; blur weights")


def with_paths(config: ConfigDict) -> ConfigDict:
    """A copy in which every path means the same from any directory.

    `~` is expanded everywhere, and relative paths become absolute; only `evaluation.judge_dir`
    stays relative, to the workdir.

    Raises:
      InputError: a path that cannot be one, as `paths.expand`.
    """
    config = config.copy_and_resolve_references()
    for field in PATH_FIELDS:
        group, name = field.split(".")
        if config[group][name]:
            config[group][name] = paths.absolute(config[group][name], field)
    evaluation = config.evaluation
    kind, _, path = evaluation.features.partition(":")
    if kind == "file" and path:
        evaluation.features = f"file:{paths.absolute(path, 'evaluation.features')}"
    if evaluation.judge_dir:
        evaluation.judge_dir = str(
            paths.expand(evaluation.judge_dir, "evaluation.judge_dir", bucket=True)
        )
    return config


def from_dict(values: dict) -> ConfigDict:
    """A config from nested plain values, such as `config.json`.

    Absent fields keep their default, or what runs did before they existed (`EARLIER`).

    Raises:
      InputError: for a field that does not exist, or a value of another type.
    """
    config = default()
    _set_earlier(config, values)
    for group, members in values.items():
        if group not in config or not isinstance(members, dict):
            raise InputError(f"{group} is not a group of settings; valid are {', '.join(config)}.")
        for name, value in members.items():
            if name not in config[group]:
                raise InputError(f"{group}.{name} is not a setting of this version.")
            try:
                config[group][name] = tuple(value) if isinstance(value, list) else value
            except TypeError:
                kind = type(config[group][name]).__name__
                raise InputError(f"{group}.{name} is {value!r}; it must be a {kind}.") from None
    return config


def as_written(config: ConfigDict, stored: dict) -> ConfigDict:
    """`config` for going on with a run whose `config.json`, `stored`, may be of an earlier version.

    Fields that the run does not know, and that `config` leaves at their default, keep doing what
    they did when the run was written. Returns a copy.
    """
    config = config.copy_and_resolve_references()
    usual = _usual()
    unchanged = {f for f, value in fields(config).items() if _plain(value) == _plain(usual[f])}
    _set_earlier(config, stored, unchanged)
    return config


def _set_earlier(config, stored, only=None):
    """Sets the fields in EARLIER that `stored` lacks; with `only`, those among them."""
    for field, value in EARLIER.items():
        group, name = field.split(".")
        members = stored.get(group)
        known = isinstance(members, dict) and name in members
        if not known and (only is None or field in only):
            config[group][name] = value


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Fields that a resumed run must share and does not, as `field: theirs -> ours`."""
    # Runs of earlier versions stored paths as they were typed.
    old, new = fields(with_paths(theirs)), fields(with_paths(ours))
    names = [
        name
        for name in sorted(old.keys() | new.keys())
        if (name.split(".")[0] in MODEL_GROUPS or name in MODEL_FIELDS) and name not in FREE_FIELDS
    ]
    return [
        f"{name}: {old.get(name, 'absent')!r} -> {new.get(name, 'absent')!r}"
        for name in names
        if _plain(old.get(name)) != _plain(new.get(name))
    ]


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value

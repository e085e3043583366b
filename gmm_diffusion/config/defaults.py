"""Every setting of a run, with its default and what it means."""

from ml_collections import ConfigDict

# Where sampling starts in EDM (arXiv 2206.00364).
SIGMA_MAX = 80.0


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
    sample.churn_max = 1e9  # heun: churn at and below this noise level
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
    guidance.interval = (0.0, 1e9)  # noise levels that are guided
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

"""What a config's data are, before anything is trained on them.

    python -m gmm_diffusion.inspect_data --config=FILE [--out=DIR] [--config.GROUP.FIELD=VALUE ...]

Prints shapes, counts, mean and deviation, classes, attributes, what the network is conditioned on,
and what training would refuse before it fits anything. With --out it writes DIR/sheet.png: training
images, a row for each class, or a scatter plot of vectors; of latents it needs data.decoder.

  --mixture            fits the mixture, too, and prints its components with their shares and
                       nearest training examples, the entropy of an example's weights, and the
                       likelihood of data that were not fitted against the number of components;
                       with --out it writes DIR/mixture.png and DIR/likelihood.png
  --components=K,K,... the numbers that are tried; without it some around the config's

Exit status: 0 done, 2 bad input.
"""

import sys
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from gmm_diffusion import command_line, paths, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError

if TYPE_CHECKING:
    # Of no use before jax has loaded.
    from gmm_diffusion.data import Dataset

_LISTED = 20
_SHEET_ROWS, _SHEET_COLUMNS = 10, 8
_SHEET_PIXELS = 32  # Smaller images are enlarged to at least this.


def run(argv: list[str]) -> int:
    """One command; returns the exit status."""
    return command_line.run(argv, __file__, _work)


def _work(argv):
    def define(values):
        flags.DEFINE_string("out", None, "Directory of the sheet.", flag_values=values)
        flags.DEFINE_boolean("mixture", False, "Fit the mixture, too.", flag_values=values)
        flags.DEFINE_list("components", [], "How many to try.", flag_values=values)

    parsed = command_line.parse(argv, define)
    config_lib.validate(parsed.config)
    config_lib.check_splits(parsed.config)
    out = paths.folder(parsed.flags.out, "--out") if parsed.flags.out else None
    nums = _numbers(parsed.flags.components)
    if nums and not parsed.flags.mixture:
        raise InputError("--components is given without --mixture, of which it is a part.")
    # Imported late: a bad flag should be refused before jax has loaded.
    command_line.prepare_jax()
    with signals.importing():
        from gmm_diffusion import assembly, inspect_mixture

    if parsed.flags.mixture:
        inspect_mixture.check(parsed.config)
    data = assembly.dataset(parsed.config)
    if out is not None and data.is_latent and data.decoder is None:
        raise InputError("--out is given, and latents are no pictures; data.decoder makes some.")
    if parsed.flags.mixture:
        nums = inspect_mixture.components(parsed.config, data, nums)
    lines = describe(parsed.config, data)
    if out is not None:
        lines.append(str(_write_sheet(data, out / "sheet.png")))
    print("\n".join(lines), flush=True)
    if not parsed.flags.mixture:
        return
    seen = inspect_mixture.look(parsed.config, data, nums)
    print("\n".join(inspect_mixture.describe(parsed.config, data, seen)), flush=True)
    for file in inspect_mixture.draw(data, seen, out) if out is not None else ():
        print(file)


def _numbers(texts):
    if not all(text.isdecimal() and text.isascii() for text in texts):
        raise InputError(
            f"--components is {','.join(texts)!r}; it must be whole numbers with commas between."
        )
    return [int(text) for text in texts]


def describe(config: ConfigDict, data: "Dataset") -> list[str]:
    """Lines of text about a `data.Dataset` that `assembly.dataset` made of `config`."""
    from gmm_diffusion.data import batches

    transform, sigma_data = batches.fit_transform_stats(data.train.sample().x)
    mean = ", ".join(f"{m:.3f}" for m in np.asarray(transform.mean)[:_LISTED])
    latent = "float32 latents"
    kind = "uint8 images" if data.is_image else latent if data.is_latent else "float32 vectors"
    return [
        _line("data", data.name),
        _line("examples", f"{'x'.join(map(str, data.shape))}, {kind}"),
        *(_line(name, _size(split)) for name, split in _splits(data)),
        # Images count from -1 to 1, as the network sees them.
        _line("mean", f"{mean} ({'of each channel, ' if len(data.shape) == 3 else ''}training)"),
        _line("deviation", f"{sigma_data:.4f} about it; the default of diffusion.sigma_data"),
        *_feature_lines(data),
        *_class_lines(data),
        *_attribute_lines(data),
        _line("condition", _condition(config, data)),
        *_refused(config, data),
    ]


def _refused(config, data):
    from gmm_diffusion.evaluation import checks

    try:
        checks.check(config, data)
    except InputError as error:
        return [_line("training", f"would be refused: {error}")]
    return []


def _line(name, text):
    return f"{name:<11}{text}"


def _splits(data):
    named = (
        ("training", data.train),
        ("validation", data.validation),
        ("held out", data.heldout),
        ("unseen", data.unseen),
    )
    return [(name, split) for name, split in named if split is not None]


def _size(split):
    where = "decoded, streamed" if split.streamed else "in memory"
    text = f"{len(split)} examples, {split.x.nbytes / 2**20:.1f} MiB {where}"
    if split.attributes is None:
        return text
    return f"{text}, {len(np.unique(split.attributes, axis=0))} combinations of attributes"


def _feature_lines(data):
    features = data.train.features
    if features is None:
        return []
    constant = int(np.sum(np.ptp(features, axis=0) == 0))
    text = f"{features.shape[1]} of the data's own; {constant} have one value in training"
    return [_line("features", text)]


def _class_lines(data):
    if not data.num_classes:
        return [_line("classes", "none")]
    counts = np.bincount(data.train.label, minlength=data.num_classes)
    listed = [*range(data.num_classes)]
    rest = ""
    if data.num_classes > _LISTED:
        order = np.argsort(-counts, kind="stable")
        listed = [*order[: _LISTED // 2], *order[-_LISTED // 2 :]]
        rest = "; the most and the least frequent:"
    names = ", ".join(f"{data.class_names[c]} ({counts[c]})" for c in listed)
    return [_line("classes", f"{data.num_classes}{rest or ':'} {names}")]


def _attribute_lines(data):
    if not data.attribute_names:
        return [_line("attributes", "none")]
    a, names = data.train.attributes.astype(np.float64), data.attribute_names
    shares = ", ".join(f"{n} {100 * s:.1f} %" for n, s in zip(names, a.mean(axis=0), strict=True))
    lines = [_line("attributes", f"{len(names)}: {shares}")]
    varying = np.flatnonzero(a.std(axis=0) > 0)
    if len(varying) > 1:
        correlation = np.corrcoef(a[:, varying].T)
        i, j = np.triu_indices(len(varying), 1)
        strongest = np.argsort(-np.abs(correlation[i, j]), kind="stable")[:5]
        pairs = ", ".join(
            f"{names[varying[i[s]]]} and {names[varying[j[s]]]} {correlation[i[s], j[s]]:+.2f}"
            for s in strongest
        )
        lines.append(_line("together", f"{pairs} (the strongest correlations)"))
    if data.exclusive:
        pairs = ", ".join(f"{first} and {second}" for first, second in data.exclusive)
        lines.append(_line("never both", pairs))
    return lines


def _condition(config, data):
    from gmm_diffusion import assembly

    group = config.conditioning
    kind = assembly.kind(config)
    if kind is None:
        return "none: all labels and attributes are ignored"
    num_attributes = len(data.attribute_names)
    components = kind.num_components(data.num_classes, num_attributes, group.num_components)
    seen = {
        "mean_embedding": f"{group.embedding_features} numbers",
        "table": f"{components} numbers",
        "draws": f"{group.num_draws} points",
    }[group.embedding]
    fitted = ""
    if kind.fitted:
        of = "each class" if group.per_class else "all classes together"
        fitted = f" fitted to {of} in {group.features} features"
    return (
        f"{group.kind}: a mixture of K = {components} components{fitted}, of which the network "
        f"reads {seen} ({group.embedding})"
    )


def _write_sheet(data, path):
    from gmm_diffusion import pictures
    from gmm_diffusion.data import latents

    try:
        if len(data.shape) != 3:
            pictures.scatter(data.train.x, data.train.label, path)
            return path
        chosen = data.train.x[_chosen(data)]
        if data.is_latent:
            chosen = latents.decode(data.decoder, chosen)
        scale = max(1, -(-_SHEET_PIXELS // min(chosen.shape[1:3])))
        pictures.save_png(path, pictures.grid(chosen, _SHEET_COLUMNS, scale))
    except OSError as error:
        raise InputError(f"--out {path.parent} cannot be written: {error.strerror}.") from error
    return path


def _chosen(data):
    """Rows of the training split: of each of the first classes as many, or evenly spaced ones."""
    if not data.num_classes:
        num = min(len(data.train), _SHEET_ROWS * _SHEET_COLUMNS)
        return np.linspace(0, len(data.train) - 1, num).astype(int)
    rows = []
    for c in range(min(data.num_classes, _SHEET_ROWS)):
        # A class of few examples repeats them, so that each class keeps a row of its own.
        rows.append(np.resize(np.flatnonzero(data.train.label == c), _SHEET_COLUMNS))
    return np.concatenate(rows)


def main() -> None:
    """The command `gmm-diffusion-inspect-data`."""
    sys.exit(run(sys.argv))


if __name__ == "__main__":
    main()

"""Statistics of a training split, for Frechet distances to it.

    python -m gmm_diffusion.make_stats --config=FILE --out=FILE.npz [--config.GROUP.FIELD=VALUE ...]

Nothing is downloaded: the features are those of evaluation.features, a judge trained on these data,
their principal components, or a network in a file of yours. The file holds the mean and covariance
of the features and where they come from: data, split, count, resolution, resize and the features'
id. Statistics with another id, resolution or resize never compare. The last line is the distance of
the held-out split to the training split, the floor of a model's. Exit status: 0 done, 1 failed, 2
bad input.
"""

import logging
import sys

from absl import flags

from gmm_diffusion import command_line, paths, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError

log = logging.getLogger(__name__)


def run(argv: list[str]) -> int:
    """One command; returns the exit status."""
    return command_line.run(argv, __file__, _work)


def _work(argv):
    def define(values):
        flags.DEFINE_string("out", None, "The file to write.", flag_values=values)

    parsed = command_line.parse(argv, define)
    if not parsed.flags.out:
        raise InputError("--out is missing; it must name the file to write.")
    config_lib.validate(parsed.config)
    config_lib.check_splits(parsed.config)
    path = paths.file(parsed.flags.out, "--out")
    # Imported late: a bad flag should be refused before jax has loaded.
    command_line.prepare_jax()
    with signals.importing():
        from gmm_diffusion import assembly
        from gmm_diffusion.data import latents
        from gmm_diffusion.evaluation import checks
        from gmm_diffusion.metrics import features, frechet

    paths.check_writable(path)
    data = assembly.dataset(parsed.config)
    checks.known_features(parsed.config, data)
    data = latents.decoded(data)
    extractor = _extractor(parsed.config, data)
    train = features.statistics(extractor, data.train.x, dataset=data.name, split="train")
    with paths.writing(path):
        frechet.save(train, path)
    print(f"{path}: {train.n} x {len(train.mean)} features of {data.name}, split train, ", end="")
    print(f"{train.resolution}, resize {train.resize or 'none'}, features {train.extractor}")
    if len(data.heldout) > 1:
        heldout = features.statistics(extractor, data.heldout.x, dataset=data.name, split="heldout")
        floor = frechet.distance(heldout, frechet.load(path))
        print(f"frechet_{frechet.count_name(heldout.n)} of the held-out split: {floor:.4f}")


def _extractor(config, data):
    from gmm_diffusion.metrics import judge as judges
    from gmm_diffusion.metrics.features import RAW, make_extractor

    group, judge = config.evaluation, None
    spec = group.features
    if len(data.shape) != 3:
        return RAW
    if spec == "judge" and (data.is_latent or not judges.can_judge(data)):
        # As in an evaluation.
        log.warning(
            "Without labels there is no judge, nor of latents: these are principal components."
        )
        spec = "pca"
    if spec == "judge":
        judge = judges.fit_judge(data, group.judge_seed, num_epochs=group.judge_epochs)
    return make_extractor(spec, data, judge)


def main() -> None:
    """The command `gmm-diffusion-make-stats`."""
    sys.exit(run(sys.argv))


if __name__ == "__main__":
    main()

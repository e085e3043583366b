"""`--mode=evaluate`: a trained run is evaluated again, for example with another sampler."""

import logging

import jax
from ml_collections import ConfigDict

from gmm_diffusion import assembly, devices, paths, processes, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import guides
from gmm_diffusion.commands import loading
from gmm_diffusion.conditioning import requests
from gmm_diffusion.evaluation import checks
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.runs import data_fingerprint, workdir

log = logging.getLogger(__name__)


def evaluate(config: ConfigDict, run_dir: str) -> dict:
    """Evaluates the run, writes the result (see `evaluate_and_report`) and returns it.

    Raises:
      InputError: other data than the run's, no good checkpoint, or settings that do not fit.
      RunError: the result cannot be written, which is tried before sampling.
    """
    config, path = config_lib.with_paths(config), workdir.directory(run_dir)
    requests.parse(config.sample.condition)
    if config.sample.condition != "train":
        log.warning(
            "sample.condition %s is for --mode=sample; an evaluation asks for the "
            "training data's own mix.",
            config.sample.condition,
        )
    data = processes.in_turn(lambda: assembly.dataset(config))
    processes.same("The data", lambda: data_fingerprint.checksums(data))
    checks.check(config, data, path)
    data_fingerprint.check(config, data, path)
    model = loading.load(config, path)
    guidance = guides.guidance(model, path)
    if processes.is_first():
        paths.check_writable(workdir.evaluation_path(path, config.evaluation.name))
    with (
        signals.graceful(devices.highest) as interrupt,
        interrupt.at_once(jax.process_count() == 1),
    ):
        return evaluation_report.evaluate_and_report(model, data, path, guidance, interrupt.check)

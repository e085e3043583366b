"""The tasks: one table, and whatever does something for a task does it for each."""

import pytest

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import training
from gmm_diffusion.commands import monitor
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import report
from gmm_diffusion.tasks import TASKS


@pytest.mark.parametrize("table", [training.LOSSES, report.EVALUATIONS, monitor.MONITORS])
def test_every_task_is_in(table):
    assert table.keys() == TASKS.keys()


def test_what_a_task_refuses_is_the_default():
    usual = config_lib.fields(config_lib.default())
    for task in TASKS.values():
        assert all(usual[field] == value for field, value in task.refuses.items())


def test_a_classifier_is_trained_whatever_ngmg_names(make_config):
    """A run of a classifier had no parameters where `ngmg.workdir` was set and did not count."""
    config = make_config("toy")
    config.classifier.name = "mlp"
    config.training.task, config.ngmg.workdir = "classifier", "elsewhere"
    config_lib.validate(config)
    assert assembly.trained_parts(config) == ("classifier",)
    config.training.task, config.ngmg.weight = "denoiser", 1.0
    assert assembly.trained_parts(config) == ("network", "log_variance")
    config.ngmg.workdir = ""
    assert assembly.trained_parts(config) == ("network", "log_variance", "classifier")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ngmg.weight", 1.0),
        ("contrastive.weight", 0.5),
        ("training.target", "exact"),
        ("training.rematerialize", True),
    ],
)
def test_a_classifier_refuses_the_terms_of_a_denoiser(make_config, field, value):
    config = make_config("toy")
    config.classifier.name, config.training.task = "mlp", "classifier"
    group, name = field.split(".")
    config[group][name] = value
    with pytest.raises(InputError, match=rf"{field} is .* training\.task classifier needs"):
        config_lib.validate(config)

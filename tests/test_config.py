"""Every setting is read, explained, checked and stored."""

import ast
import dataclasses
import json
import math
import pathlib
import re

import pytest
from ml_collections import ConfigDict

import gmm_diffusion
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning.settings import Fitted
from gmm_diffusion.data import Dataset
from gmm_diffusion.diffusion import contrastive_loss, preconditioning
from gmm_diffusion.errors import InputError
from gmm_diffusion.sampling.settings import SamplerSettings
from gmm_diffusion.training import loss

PACKAGE = pathlib.Path(gmm_diffusion.__file__).parent
FIELDS = config_lib.fields(config_lib.default())
GROUPS = sorted({field.split(".")[0] for field in FIELDS})
# What `of_group` makes of a group.
SETTINGS = {cls.__name__: cls for cls in (Fitted, SamplerSettings)}


def reads(node):
    """Settings that a definition reads.

    `x.group.field`, or `g.field` after `g = x.group`, or all that `of_group(Settings, g)` takes.
    """
    names = {}
    for child in ast.walk(node):
        if isinstance(child, ast.Assign) and isinstance(child.value, ast.Attribute):
            for target in child.targets:
                if isinstance(target, ast.Name) and child.value.attr in GROUPS:
                    names[target.id] = child.value.attr
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute):
            value = child.value
            if isinstance(value, ast.Attribute) and value.attr in GROUPS:
                yield f"{value.attr}.{child.attr}"
            elif isinstance(value, ast.Name) and value.id in names:
                yield f"{names[value.id]}.{child.attr}"
        elif isinstance(child, ast.Call) and getattr(child.func, "id", "") == "of_group":
            cls, group = child.args
            name = names[group.id] if isinstance(group, ast.Name) else group.attr
            given = {keyword.arg for keyword in child.keywords}
            for field in dataclasses.fields(SETTINGS[cls.id]):
                if field.name not in given:
                    yield f"{name}.{field.name}"


def read_in_package():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "config":
            for node in ast.parse(path.read_text()).body:
                found.update(reads(node))
    return found


def test_every_field_is_read_by_some_code():
    unread = FIELDS.keys() - read_in_package()
    assert unread == set()


def test_code_reads_no_field_that_does_not_exist():
    # A typo in an attribute of a ConfigDict shows at run time only, perhaps after hours.
    dataset = {f"data.{f.name}" for f in dataclasses.fields(Dataset)} | {
        "data.shape",
        "data.is_image",
        "data.is_latent",
        "data.watched",
    }
    # Of a network, of a model's classifier, and of a group as a whole.
    others = {"network.apply", "network.update", "conditioning.update"}
    of_classifiers = ("components", "cost", "objective", "classifier_params")
    others |= {f"classifier.{name}" for name in of_classifiers}
    assert read_in_package() - FIELDS.keys() <= dataset | others


def test_every_field_has_a_comment():
    source = (PACKAGE / "config" / "defaults.py").read_text()
    body = source[source.index("def default(") : source.index("return c.lock()")]
    for field in FIELDS:
        # Behind the value, or on the line before.
        comment = rf"^    (# \S.{{3,}}\n    )?{re.escape(field)} = .*?(  # \S.{{3,}})?$"
        (found,) = re.findall(comment, body, re.MULTILINE)
        assert any(found), f"{field} has no comment"


def test_every_number_and_choice_has_a_rule():
    assert config_lib.RULES.keys() <= FIELDS.keys()
    unchecked = FIELDS.keys() - config_lib.RULES.keys()
    numbers = {f for f in unchecked if type(FIELDS[f]) in (int, float, tuple)}
    assert numbers == set()
    texts = {f for f in unchecked if type(FIELDS[f]) is str}
    # Names that only the dataset can judge, and a request in a language of its own.
    assert texts == {
        "data.toy_name",
        "data.tfds_name",
        "data.data_dir",
        "data.heldout_dir",
        "data.train_split",
        "data.heldout_split",
        "sample.condition",
        "conditioning.classifier",
        "guidance.guide",
        "ngmg.workdir",
        "training.init_from",
        "guidance.classifier",
        "evaluation.judge_dir",
        "evaluation.statistics",
    }


def changed(**values):
    config = config_lib.default()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


EDGES = [
    # field, refused, allowed
    ("data.validation_fraction", [1.0, -0.1, math.nan], [0.0, 0.99]),
    ("evaluation.judges", [0], [1]),
    ("evaluation.split", ["test", ""], ["heldout", "validation"]),
    ("data.heldout_fraction", [0.0, 1.0, -0.1, math.nan], [0.01, 0.99]),
    ("data.num_train", [999], [1000]),
    ("data.attributes", [("",), (3,)], [(), ("Smiling", "Bald")]),
    ("data.held_out", [("",), (1,)], [(), ("Smiling=1,Bald=1",)]),
    ("data.correlation", [-0.1, 1.1, math.nan], [0.0, 1.0]),
    ("data.split_seed", [-1, 2**31], [0, 2**31 - 1]),
    ("conditioning.kind", ["GMM", ""], ["class", "none"]),
    ("conditioning.num_components", [0], [1]),
    ("conditioning.fit", ["kmeans", ""], ["em", "k_means"]),
    ("conditioning.responsibilities", ["one-hot", ""], ["soft", "hard", "random"]),
    ("conditioning.covariance_floor", [0.0, math.inf], [1e-6]),
    ("conditioning.dropout", [-0.01, 1.01, math.nan], [0.0, 1.0]),
    (
        "conditioning.concentration",
        [(0.0, 1.0), (2.0, 1.0), (1.0,), ("a", "b"), (0.1, 1e39)],
        [(1.0, 1.0)],
    ),
    ("conditioning.one_hot_share", [-0.1, 1.1, math.nan], [0.0, 1.0]),
    ("conditioning.shares", [(0.6, 0.5), (-0.1, 0.5), (0.5,)], [(0.0, 0.0), (0.5, 0.5)]),
    ("network.channel_mult", [(), (0,), (1.5,), ("a",)], [(1,), (1, 2, 3)]),
    ("network.attention_resolutions", [(0,), (2.5,)], [(), (4, 8)]),
    ("network.dropout", [1.0, -0.1], [0.0, 0.9]),
    ("network.dtype", ["float16"], ["bfloat16"]),
    ("diffusion.sigma_data", [-0.1], [0.0, 0.5]),
    ("diffusion.sigma_log_mean", [math.nan, math.inf], [-5.0, 5.0]),
    ("diffusion.sigma_log_std", [0.0], [0.1]),
    ("diffusion.preconditioning", ["velocity", ""], ["edm", "noise"]),
    ("diffusion.weighting", ["uniform", ""], ["denoising", "likelihood"]),
    ("diffusion.law", ["measured", ""], ["given"]),
    ("optimizer.schedule", ["linear"], ["cosine", "constant"]),
    ("optimizer.learning_rate", [0.0, -1e-3, math.inf], [1e-6]),
    ("optimizer.beta1", [1.0, -0.1], [0.0]),
    ("optimizer.beta2", [1.0, -0.1], [0.0]),
    ("classifier.loss", ["energy"], ["cross_entropy"]),
    ("classifier.scales", [(0.0,), (1.0, -1.0), (math.inf,), ("a",)], [(), (1.0,)]),
    ("classifier.momentum", [1.0, -0.1], [0.0, 0.9]),
    ("ngmg.weight", [-0.1, math.nan], [0.0, 2.0]),
    ("contrastive.weight", [-0.1, math.inf], [0.0, 1.0]),
    ("contrastive.zeta", [(0.0, 1.0), (2.0, 1.0), (1.0,), ("a", "b")], [(0.1, 0.1)]),
    ("contrastive.zeta_law", ["normal", ""], ["uniform", "logistic"]),
    ("contrastive.points", [0, 1], [2]),
    ("contrastive.num_points", [0, 3, -2], [2]),
    ("contrastive.importance", [-0.1, 1.0], [0.0, 0.9]),
    ("contrastive.chunk", [0], [1]),
    ("training.task", ["sampler"], ["classifier"]),
    ("training.target", ["score", "exact"], ["data"]),
    ("training.num_steps", [0], [1]),
    ("training.microbatch", [-1], [0, 1]),
    ("training.batch_size", [0], [1]),
    ("training.ema_widths", [(), (0.0,), (1e-300,), (0.28,), (0.05, 0.05)], [(1e-6, 0.27)]),
    ("training.max_nonfinite", [-1], [0]),
    ("training.heldout_every", [-1], [0]),
    ("checkpoint.keep", [0], [1]),
    ("sample.sampler", ["ddim"], ["euler"]),
    ("sample.sigma_min", [0.0, 80.0], [0.001]),
    ("sample.sigma_max", [-1.0, math.inf], [0.0, 20.0]),
    ("sample.churn", [-1.0], [0.0, 40.0]),
    ("checkpoint.snapshot_every", [-1], [0, 1]),
    ("sample.parallel_window", [-1], [0, 8]),
    ("sample.parallel_tolerance", [-0.1, math.nan], [0.0, 1.0]),
    ("sample.ema", [0.28, 1e-300, -1.0, math.nan], [0.0, 0.1, 0.2]),
    ("evaluation.features", ["inception", "file"], ["pca", "file:x"]),
    ("evaluation.loss_levels", [0], [1]),
]


@pytest.mark.parametrize(
    ("field", "refused", "allowed"), EDGES, ids=lambda v: v if type(v) is str else ""
)
def test_the_edges_of_rules(field, refused, allowed):
    for value in refused:
        with pytest.raises(InputError) as caught:
            config_lib.validate(changed(**{field: value}))
        text = str(caught.value)
        assert text.startswith(f"{field} is {value!r}; "), text
        assert text.endswith(".")
    for value in allowed:
        config_lib.validate(changed(**{field: value}))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"data__name": "tfds_images"}, r"data\.tfds_name"),
        ({"data__name": "toy"}, r"network\.name"),
        ({"data__name": "toy", "network__name": "mlp", "data__flip": True}, r"data\.flip"),
        ({"network__name": "mlp"}, r"network\.name"),
        ({"data__heldout_dir": "x"}, r"data\.heldout_dir is 'x'; data\.name digits has no folder"),
        ({"training__task": "classifier", "ngmg__weight": 1.0}, r"ngmg\.weight"),
        ({"guidance__energy": 1.0}, r"guidance\.energy is 1\.0; a run without ngmg\.weight"),
        (
            {"guidance__energy": 1.0, "ngmg__weight": 1.0, "conditioning__kind": "none"},
            r"guidance\.energy",
        ),
        ({"training__task": "classifier", "conditioning__kind": "none"}, r"training\.task"),
        ({"ngmg__weight": 1.0, "conditioning__kind": "none"}, r"ngmg\.weight"),
        (
            {"data__name": "toy", "network__name": "mlp", "ngmg__weight": 1.0},
            r"classifier\.name",
        ),
        ({"contrastive__weight": 1.0, "training__task": "classifier"}, r"contrastive\.weight"),
        ({"diffusion__weighting": "likelihood", "training__task": "classifier"}, r"diffusion\.w"),
        ({"contrastive__weight": 1.0, "contrastive__points": 48}, r"contrastive\.points is 48"),
        ({"contrastive__weight": 1.0, "contrastive__zeta": (0.1, 9.0)}, r"contrastive\.zeta"),
        (
            {"training__microbatch": 48},
            r"training\.microbatch is 48; it must divide training\.batch_size 128",
        ),
        (
            {"training__microbatch": 2, "contrastive__weight": 1.0},
            r"training\.microbatch is 2; contrastive\.points 32 of .* need a multiple of 4",
        ),
        (
            {"sample__parallel_window": 4, "sample__sampler": "dpmpp_2m"},
            r"sample\.parallel_window is 4; sample\.sampler dpmpp_2m",
        ),
        (
            {"conditioning__fit": "k_means", "conditioning__kind": "clusters"},
            r"conditioning\.fit is 'k_means'; it is of conditioning\.kind gmm, and not clusters",
        ),
        (
            {"conditioning__responsibilities": "hard", "conditioning__kind": "class"},
            r"conditioning\.responsibilities is 'hard'; it is of conditioning\.kind gmm",
        ),
        (
            {"conditioning__fit": "k_means", "conditioning__covariance": "full"},
            r"conditioning\.covariance is 'full'; conditioning\.fit k_means has one variance",
        ),
        (
            {
                "conditioning__responsibilities": "random",
                "conditioning__features": "classifier",
                "conditioning__classifier": "runs/some",
            },
            r"conditioning\.responsibilities is 'random'; the features classifier need soft",
        ),
        ({"sample__sigma_min": 2.0, "sample__sigma_max": 1.0}, r"sample\.sigma_min"),
        ({"sample__sigma_min": 1.0, "sample__sigma_max": 1.000001}, r"sample\.steps is 18; betw"),
        (
            {"sample__steps": 100_000, "sample__rho": 0.1, "sample__sigma_min": 79.9},
            r"sample\.steps",
        ),
        ({"sample__ema": 0.2, "checkpoint__snapshot_every": 0}, r"sample\.ema is 0\.2; with"),
        ({"network__channels": 9, "network__head_channels": 4}, r"network\.head_channels"),
    ],
)
def test_fields_that_do_not_go_together(values, field):
    with pytest.raises(InputError, match=field):
        config_lib.validate(changed(**values))


def test_names_of_rules_are_those_of_tables():
    for field, table in (
        ("diffusion.preconditioning", preconditioning.PRECONDITIONINGS),
        ("diffusion.weighting", loss.WEIGHTINGS),
        ("contrastive.zeta_law", contrastive_loss.ZETA_LAWS),
    ):
        assert config_lib.RULES[field][1] == "one of " + ", ".join(table)


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("data.test_dir", "data.heldout_dir"),
        ("data.val_dir", "data.heldout_dir"),
        ("data.validation_dir", "data.heldout_dir"),
        ("data.test_split", "data.heldout_split"),
        ("data.train_dir", "data.data_dir"),
        ("data.heldout_fractoin", "data.heldout_fraction"),
    ],
)
def test_the_setting_that_was_meant(typed, ours):
    with pytest.raises(InputError, match=rf"{typed} is not a setting; did you mean {ours}\?"):
        config_lib.check_name(typed)


def test_splits_of_tfds_are_of_nothing_else():
    config = changed(data__name="tfds_images", data__tfds_name="mnist", data__heldout_split="x")
    config_lib.check_splits(config)
    for name, hint in (("image_folder", "; data.heldout_dir names a folder."), ("digits", ".")):
        for field, usual in (("heldout_split", "test"), ("train_split", "train")):
            config = changed(data__name=name, **{f"data__{field}": "val"})
            with pytest.raises(InputError) as caught:
                config_lib.check_splits(config)
            assert str(caught.value) == (
                f"data.{field} is 'val'; data.name {name} has no splits of that kind, and needs "
                f"{usual!r}{hint}"
            )


def test_the_defaults_are_valid():
    config_lib.validate(config_lib.default())


def test_a_config_of_other_fields_or_types_is_refused():
    config = config_lib.default()
    config.training.num_steps = None
    with pytest.raises(InputError, match=r"training\.num_steps is None; .* of type int"):
        config_lib.validate(config)
    config = config_lib.default()
    config.unlock()
    config.training.num_stepz = 3
    with pytest.raises(InputError, match=r"did you mean training\.num_steps\?"):
        config_lib.validate(config)
    config = config_lib.default()
    config.unlock()
    del config.training.seed
    with pytest.raises(InputError, match=r"training\.seed is missing"):
        config_lib.validate(config)
    for wrong in (3, {"training": {}}, ConfigDict({"training": 3})):
        with pytest.raises(InputError, match=r"made by config\.default"):
            config_lib.validate(wrong)


def test_a_config_survives_its_file():
    config = changed(
        network__channel_mult=(1, 2, 3),
        network__attention_resolutions=(),
        training__ema_widths=(0.07,),
        optimizer__learning_rate=1,
        conditioning__concentration=(0.5, 2.0),
        data__flip=True,
    )
    stored = json.loads(config.to_json_best_effort())
    back = config_lib.from_dict(stored)
    assert config_lib.fields(back) == config_lib.fields(config)
    assert {k: type(v) for k, v in config_lib.fields(back).items()} == {
        k: type(v) for k, v in FIELDS.items()
    }
    assert config_lib.differences(back, config) == []
    assert back.is_locked


def test_a_file_of_an_older_version_takes_new_defaults():
    back = config_lib.from_dict({"training": {"num_steps": 3}})
    assert back.training.num_steps == 3
    assert back.training.batch_size == config_lib.default().training.batch_size


def test_a_file_from_before_components_were_drawn_asks_for_weights_and_trained_on_none_alone():
    back = config_lib.from_dict({"conditioning": {"semantics": "mixture"}, "sample": {"num": 3}})
    assert back.sample.component == "literal"
    assert back.conditioning.one_hot_share == 0


def test_a_file_of_another_version_is_refused():
    with pytest.raises(InputError, match=r"training\.gone is not a setting"):
        config_lib.from_dict({"training": {"gone": 3}})
    with pytest.raises(InputError, match="gone is not a group"):
        config_lib.from_dict({"gone": {}})
    with pytest.raises(InputError, match=r"data\.flip is 3; it must be a bool"):
        config_lib.from_dict({"data": {"flip": 3}})


def test_differences_name_what_matters():
    theirs = config_lib.default()
    ours = changed(training__num_steps=7, sample__steps=3, checkpoint__every=1)
    assert config_lib.differences(ours, theirs) == []
    # What bounds memory.
    ours = changed(training__microbatch=8, training__rematerialize=True)
    assert config_lib.differences(ours, theirs) == []
    ours = changed(network__width=7, training__seed=3)
    assert config_lib.differences(ours, theirs) == [
        "network.width: 128 -> 7",
        "training.seed: 0 -> 3",
    ]


def test_a_resumed_run_may_take_other_chunks_and_no_other_weight():
    theirs = config_lib.default()
    assert config_lib.differences(changed(contrastive__chunk=64), theirs) == []
    ours = changed(contrastive__chunk=64, contrastive__weight=1.0)
    assert config_lib.differences(ours, theirs) == ["contrastive.weight: 0.0 -> 1.0"]


def test_runs_from_before_importance_go_on_with_even_levels():
    old = {"contrastive": {"num_points": 8}}
    assert config_lib.from_dict(old).contrastive.importance == 0
    assert config_lib.as_written(config_lib.default(), old).contrastive.importance == 0


def test_runs_from_before_a_field_existed(monkeypatch):
    """What they did then is read from them, and resumed unless the config says otherwise."""
    monkeypatch.setitem(config_lib.EARLIER, "sample.rho", 5.0)
    old = {"sample": {"num": 3}}
    assert config_lib.from_dict(old).sample.rho == 5.0
    assert config_lib.from_dict({"sample": {"rho": 7.0}}).sample.rho == 7.0
    config = config_lib.default()
    assert config_lib.as_written(config, old).sample.rho == 5.0
    assert config.sample.rho == 7.0
    config.sample.rho = 6.0
    assert config_lib.as_written(config, old).sample.rho == 6.0
    assert config_lib.as_written(config_lib.default(), {"sample": {"rho": 7.0}}).sample.rho == 7.0

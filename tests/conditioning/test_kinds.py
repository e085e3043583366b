"""The kinds of conditioning, over their table; fits that read a block at a time."""

import dataclasses
import pathlib
import re
import sys

import numpy as np
import pytest

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning import KINDS, Fitted, features, kinds
from gmm_diffusion.conditioning.kinds import Examples
from gmm_diffusion.errors import InputError

# The package has a function of this name.
FEATURES_FILE = sys.modules["gmm_diffusion.conditioning.features"]
DOCS = pathlib.Path(__file__).parents[2] / "docs"
SETTINGS = Fitted(6, feature_dim=3, em_starts=1, em_iterations=20)


class Recorder:
    """An array that remembers how much of it was read at once, and is never read whole."""

    def __init__(self, x):
        self._x, self.shape, self.most = x, x.shape, 0

    def __len__(self):
        return len(self._x)

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        return self._x[rows]


def examples(num=600):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, num).astype(np.int32)
    x = rng.normal(size=(num, 2, 2, 2)) * np.linspace(1, 3, 8).reshape(2, 2, 2)
    x = x + 2 * np.eye(3)[label].sum(axis=1)[:, None, None, None] * label[:, None, None, None]
    attributes = np.stack([label > 0, rng.random(num) < 0.3], axis=1).astype(np.uint8)
    return Examples(x.astype(np.float32), label, attributes, 3)


def reading(recorder):
    whole = examples()
    return Examples(recorder, whole.label, whole.attributes, whole.num_classes)


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_on_the_simplex_and_of_the_components(name):
    kind, own = KINDS[name], examples()
    layout = kind.fit(own, SETTINGS, 0)
    num = kind.num_components(3, 2, SETTINGS.num_components)
    weights = kind.weigh(layout, own)
    assert weights.shape == (600, num)
    assert weights.dtype == np.float32
    assert layout.mixture.num_components == len(layout.component_class) == num
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert weights.min() >= 0
    # Weights between 0 and 1, all of them different, are what training may draw around.
    assert kind.spread == (len(np.unique(weights)) > 3)
    # A component of a class belongs to its examples only.
    owned = layout.component_class >= 0
    other = (layout.component_class[None] != own.label[:, None]) & owned[None]
    assert weights[other].max(initial=0) == 0


def test_class_and_attributes_weigh_by_what_is_known():
    own = examples()
    made = {n: KINDS[n].weigh(KINDS[n].fit(own, SETTINGS, 0), own) for n in ("class", "attributes")}
    np.testing.assert_array_equal(made["class"], np.eye(3)[own.label])
    for a in range(2):
        np.testing.assert_array_equal(made["attributes"][:, 2 * a + 1], own.attributes[:, a] / 2)
        np.testing.assert_array_equal(made["attributes"][:, 2 * a], (1 - own.attributes[:, a]) / 2)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("space", ["pca", "raw"])
def test_no_kind_reads_more_than_a_block(name, space, monkeypatch):
    """Nor do blocks change the result, and what needs no data reads none."""
    kind, settings = KINDS[name], dataclasses.replace(SETTINGS, features=space)
    monkeypatch.setattr(FEATURES_FILE, "_WHOLE_VALUES", 0)
    layout = kind.fit(examples(), settings, 0)
    weights = kind.weigh(layout, examples())
    monkeypatch.setattr(FEATURES_FILE, "_BLOCK_VALUES", 8 * 70)
    recorder = Recorder(examples().x)
    again = kind.fit(reading(recorder), settings, 0)
    in_blocks = kind.weigh(again, reading(recorder))
    assert recorder.most == (70 if "x" in kind.needs else 0)
    np.testing.assert_allclose(again.mixture.means, layout.mixture.means, atol=1e-3)
    np.testing.assert_allclose(in_blocks, weights, atol=1e-2)


def test_a_fit_sees_so_many_examples_and_no_more():
    settings = Fitted(feature_dim=3, em_max_points=100)
    _, points, labels = kinds.feature_points(examples(), settings, 0)
    assert points.shape == (100, 3)
    assert labels.shape == (100,)


def test_names_that_are_refused_before_jax_loads():
    assert set(config_lib.KINDS) == {*KINDS, "none"}
    of_attributes = {name for name, kind in KINDS.items() if kind.of_attributes}
    assert set(config_lib.KINDS_OF_ATTRIBUTES) == of_attributes
    named = {need for kind in KINDS.values() for need in kind.needs}
    assert named == {"x", "label", "attributes"}


def test_a_space_of_features_is_one_function_and_one_line(monkeypatch):
    """As docs/extending.md adds one."""
    text = (DOCS / "extending.md").read_text()
    section = text[text.index("## A space of features") :]
    (block,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.S)
    monkeypatch.setitem(FEATURES_FILE.FEATURES, "random", None)
    exec(compile(block, "extending.md", "exec"), vars(FEATURES_FILE).copy())
    layout = KINDS["gmm"].fit(examples(), dataclasses.replace(SETTINGS, features="random"), 0)
    z = np.asarray(features(layout.transform, examples().x))
    assert z.shape == (600, SETTINGS.feature_dim)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-4)


def test_features_that_tell_nothing_apart_are_refused():
    own = dataclasses.replace(examples(), x=np.ones((600, 4), np.float32))
    with pytest.raises(InputError, match=r"features is 'own', and all 4 are the same for every"):
        KINDS["gmm"].fit(own, dataclasses.replace(SETTINGS, features="own"), 0)


def test_a_kind_is_one_function_and_one_line(make_config, monkeypatch):
    """As docs/extending.md adds one."""
    text = (DOCS / "extending.md").read_text()
    section = text[text.index("## A kind of conditioning") :]
    (block,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.S)
    monkeypatch.setitem(KINDS, "landmarks", None)
    exec(compile(block, "extending.md", "exec"), vars(kinds).copy())
    config = make_config("toy")
    config.conditioning.kind, config.conditioning.per_class = "landmarks", False
    config.conditioning.num_components = 12
    config.training.task, config.classifier.name = "classifier", "mlp"
    data = assembly.dataset(config)
    fitted, weights = assembly.conditioners.fit_with_weights(config, data)
    made = fitted.conditioner
    z = np.asarray(features(made.transform, data.train.x - fitted.transform.mean))
    away = np.linalg.norm(z[None] - np.asarray(made.mixture.means)[:, None], axis=-1)
    assert away.min(axis=1).max() < 1e-4
    # Equal spheres: Bayes' rule by hand.
    away = away - away.min(axis=0)
    near = (away[:, :50] == 0).argmax(axis=0)
    np.testing.assert_array_equal(weights[0, :50].argmax(axis=1), near)
    assert assembly.objective(config, fitted).out_dim == 2
    assert assembly.kind(config).num_components(4, 0, 12) == 12

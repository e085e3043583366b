"""The experiment on attributes: losses by their formulas, its training, its tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import balanced_accuracy_score

from experiments import (
    attributes,
    attributes_plan,
    attributes_report,
    rate_search,
    run_attributes,
)
from experiments.rate_search import MULTIPLES, Cell
from gmm_diffusion.errors import InputError

Y = np.array([-3.0, -0.2, 0.1, 0.5, 0.9, 1.3, 4.0])


def cost(name, y, t, progress=0.0):
    y = jnp.asarray(y, jnp.float32)[:, None]
    t = jnp.full_like(y, t)
    return np.asarray(attributes.LOSSES[name].cost(y, t, jnp.float32(progress)))[:, 0]


def bells(offset, scales):
    return np.mean([np.exp(-(offset**2) / (2 * s * s)) for s in scales], axis=0)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_every_loss_by_its_formula(t):
    p = 1 / (1 + np.exp(-Y))
    right = p if t else 1 - p
    number = np.clip(Y if t else 1 - Y, 1e-6, 1 - 1e-6)
    log_form = np.mean([(Y - t) ** 2 / (2 * s * s) for s in (0.5, 1, 2, 4)], axis=0)
    ngmg = 1 - bells(Y - t, (0.5, 1, 2, 4))
    expected = {
        "NGMG": ngmg,
        "Welsch, or NGMG of scale 1": 1 - np.exp(-((Y - t) ** 2) / 2),
        "mean square": (Y - t) ** 2 / 2,
        "BCE, logits": -np.log(right),
        "BCE, probabilities": -np.log(right),
        "BCE, clipped numbers": -np.log(number),
        "generalised cross-entropy": (1 - right**0.7) / 0.7,
        "label smoothing": optax.sigmoid_binary_cross_entropy(
            np.float32(Y), np.full(7, 0.9 * t + 0.05, np.float32)
        ),
        "NGMG, annealed scales": 1 - bells(Y - t, (4, 8, 16, 32)),
        "NGMG, a tenth log": 0.9 * ngmg + 0.1 * log_form,
    }
    assert expected.keys() == attributes.LOSSES.keys()
    for name, values in expected.items():
        # A number clipped next to 1 is as near to it as float32 has one.
        rtol = 2e-3 if name == "BCE, clipped numbers" else 2e-4
        np.testing.assert_allclose(cost(name, Y, t), values, rtol=rtol, atol=2e-6, err_msg=name)
    halfway = 1 - bells(Y - t, np.sqrt(8) * np.array([0.5, 1, 2, 4]))
    name = "NGMG, annealed scales"
    np.testing.assert_allclose(cost(name, Y, t, 0.25), halfway, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cost(name, Y, t, 0.75), expected["NGMG"], rtol=1e-4, atol=1e-6)


def test_which_gradients_have_a_bound():
    y = np.linspace(-6, 7, 2001)

    def largest(name):
        slope = jax.grad(lambda v: jnp.sum(attributes.LOSSES[name].cost(v, jnp.ones_like(v), 0.0)))
        return float(jnp.abs(slope(jnp.asarray(y, jnp.float32)[:, None])).max())

    assert largest("NGMG") <= np.mean(np.exp(-0.5) / np.array([0.5, 1, 2, 4])) + 1e-6
    assert largest("BCE, logits") <= 1
    assert largest("BCE, clipped numbers") > 100
    # Where a probability rounds to 0 and 1 nothing is left to pull with.
    far = jax.grad(lambda v: attributes.LOSSES["BCE, probabilities"].cost(v, 1.0, 0.0))(-110.0)
    assert far == 0


def test_informed_is_balanced_accuracy_rescaled():
    rng = np.random.default_rng(0)
    seen, truth = rng.random((200, 3)) < 0.3, (rng.random((200, 3)) < [0.5, 0.1, 0.02])
    found = attributes.informedness(jnp.asarray(seen), jnp.asarray(truth, jnp.float32))
    expected = [2 * balanced_accuracy_score(t, s) - 1 for t, s in zip(truth.T, seen.T, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(attributes_report.balanced(np.array(1.0)), 1)
    np.testing.assert_allclose(attributes_report.balanced(np.array(0.0)), 0.5)


def test_a_share_of_all_labels_is_wrong():
    labels = (np.random.default_rng(1).random((5000, 4)) < 0.2).astype(np.float32)
    for share in (0.0, 0.1, 0.4):
        wrong = attributes.flip(labels, share) != labels
        assert wrong.mean(axis=0) == pytest.approx([share] * 4, abs=0.03)


@pytest.fixture(scope="module")
def people():
    """Attributes that are signs of features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    shown = (x[:, :9] > 0.3).astype(np.float32)
    return attributes.People(x[:200], shown[:200], x[200:], shown[200:])


def test_runs_are_what_they_are_one_by_one(people):
    setting = attributes.Setting("NGMG", "sgd", 0.1, num_steps=20, batch_size=16, width=8)
    together = attributes.train(setting, people, [3, 4], [0.05, 0.2])
    assert together.loss.shape == together.gradient_norm.shape == (4, 20)
    assert together.fitted.shape == (4, 10)
    assert together.informed.shape == (4, 10, 6)
    one = attributes.train(setting, people, [4], [0.2])
    np.testing.assert_allclose(one.loss[0], together.loss[3], rtol=1e-4)
    np.testing.assert_allclose(one.informed[0], together.informed[3], atol=1e-6)
    # The same start and the same first batch at every rate.
    assert together.loss[0, 0] == pytest.approx(together.loss[1, 0], rel=1e-5)


@pytest.mark.parametrize("loss", ["NGMG", "BCE, logits", "NGMG, annealed scales"])
def test_losses_learn(people, loss):
    setting = attributes.Setting(loss, "adam", 0.0, num_steps=200, batch_size=32, width=16)
    curves = attributes.train(setting, people, [0], [0.01])
    assert curves.accuracy[0] > 0.5
    assert curves.fitted[0, -1] > 0.7


def test_settings_are_checked():
    with pytest.raises(InputError, match="loss is 'L1'; valid are NGMG, "):
        attributes.Setting("L1", "sgd", 0.0)
    with pytest.raises(InputError, match=r"flipped is 0\.5; valid is 0 or more"):
        attributes.Setting("NGMG", "sgd", 0.5)
    with pytest.raises(InputError, match="num_steps is 25; valid are multiples of 10"):
        attributes.Setting("NGMG", "sgd", 0.0, num_steps=25)


def _cell(fitted, heldout, loss="NGMG"):
    """Two seeds; what matters is at the best rate."""
    size = 2 * len(MULTIPLES)
    at = np.arange(2) * len(MULTIPLES) + MULTIPLES.index(1.0)
    curves = attributes.Curves(
        np.ones((size, 50)), np.ones((size, 50)), np.zeros((size, 3)), np.zeros((size, 3, 1))
    )
    curves.fitted[at] = fitted
    curves.informed[at, :, 0] = heldout
    return Cell(attributes.Setting(loss, "sgd", 0.0), np.array(MULTIPLES), curves)


def test_losses_are_read_at_the_same_fit():
    # The slow one ends at a fit of 0.4: 0.7 as a balanced accuracy. The fast one is there halfway
    # from its first check, 0.6, to its second, 0.8, and four fifths of the way to its first, 0.75.
    fast = _cell([[0.2, 0.6, 0.8], [0.5, 0.7, 0.9]], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    slow = _cell([[0.1, 0.2, 0.4], [0.1, 0.3, 0.5]], [[0.0, 0.1, 0.6], [0.0, 0.1, 0.8]])
    failed = _cell([[0.0, 0.1, 0.1], [0.5, 0.7, 0.9]], [[0.0, 0.0, 0.05], [0.4, 0.5, 0.6]])
    level, (first, second, third) = attributes_report.matched([fast, slow, failed])
    assert level == pytest.approx(0.7)
    np.testing.assert_allclose(first, [(0.55 + 0.6) / 2, 0.5 + 0.8 * 0.2])
    np.testing.assert_allclose(second, [0.8, (0.55 + 0.9) / 2])
    np.testing.assert_allclose(third, [np.nan, 0.5 + 0.8 * 0.2])
    assert np.isnan(attributes_report.matched([failed])[0])


def test_the_command_goes_on_where_it_was_stopped(monkeypatch, tmp_path, people, capsys):
    wide = attributes.People(
        people.x,
        np.tile(people.attributes, 2)[:, :9],
        people.heldout_x,
        np.tile(people.heldout_attributes, 2)[:, :9],
    )
    monkeypatch.setattr(attributes, "load", lambda: wide)
    monkeypatch.setattr(attributes_plan, "EXPONENTS", {"sgd": range(-3, 0)})
    monkeypatch.setattr(rate_search, "estimate", lambda *_: 0.1)
    arguments = [f"--out={tmp_path}", "--losses=NGMG;BCE, logits", "--optimizers=sgd"]
    arguments += ["--flipped=0", "--seeds=2", "--steps=20"]
    assert run_attributes.run([*arguments, "--dry_run"]) == 0
    assert "4 cells left" in capsys.readouterr().out
    assert run_attributes.run(arguments) == 0
    text = (tmp_path / "tables.md").read_text()
    assert "1 comparison, paired by seed" in text
    monkeypatch.setattr(attributes, "train", functools.partial(pytest.fail, "trained again"))
    assert run_attributes.run(arguments) == 0
    assert (tmp_path / "tables.md").read_text() == text
    assert run_attributes.run([*arguments[:1], "--losses=L1"]) == 2
    assert run_attributes.run([*arguments[:1], "--flipped=a"]) == 2

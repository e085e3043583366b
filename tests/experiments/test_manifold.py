"""The manifold experiment: every cost of shifted points by a closed form, and what is learned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from experiments import manifold, manifold_report, run_manifold
from gmm_diffusion import mixture
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import ngmg

PROBLEM = manifold.Problem(dim=4, batch_size=32, num_steps=60, num_seeds=2, rates=(0.03, 0.3))
DISTANCES = np.array([0.0, 0.05, 0.4, 2.0])


def data(num_points=64, shape="circle"):
    return manifold.points(shape, (jnp.arange(num_points) + 0.5) / num_points, 4)


def test_points_lie_on_their_manifold():
    circle, line = np.asarray(data()), np.asarray(data(shape="line"))
    np.testing.assert_allclose(np.linalg.norm(circle[:, :2], axis=1), 1, rtol=1e-6)
    assert not circle[:, 2:].any()
    assert not line[:, 1:].any()
    assert (line[:, 0].min(), line[:, 0].max()) == pytest.approx((-1 + 1 / 64, 1 - 1 / 64))
    with pytest.raises(InputError, match="shape is 'knot'; valid are 'line' and 'circle'"):
        data(shape="knot")


def test_the_density_is_that_of_a_mixture():
    centers, tau = data(), 0.3
    x = centers + 0.2 * np.random.default_rng(0).normal(size=centers.shape)
    mix = mixture.GaussianMixture.create(
        np.full(64, 1 / 64), centers, np.full(64, tau**2), "spherical"
    )
    np.testing.assert_allclose(
        manifold.log_density(x, centers, tau), mixture.log_prob(mix, x), rtol=1e-4, atol=1e-4
    )


def test_w1_is_the_distance():
    cost, slope = manifold.curve("W1", PROBLEM, DISTANCES)
    np.testing.assert_allclose(cost, DISTANCES, atol=1e-6)
    np.testing.assert_allclose(slope[1:], 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["KL, blur 0.3", "KL, blur 0.03"])
def test_kl_is_quadratic_in_the_distance_over_the_blur(name):
    # Off the manifold's plane both are the same Gaussian, shifted.
    tau = float(name.split()[-1])
    cost, slope = manifold.curve(name, PROBLEM, DISTANCES)
    np.testing.assert_allclose(cost, DISTANCES**2 / (2 * tau**2), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(slope, DISTANCES / tau**2, rtol=2e-3, atol=2e-2)


def test_js_is_that_of_two_gaussians_and_saturates():
    tau = 0.3
    cost, slope = manifold.curve("JS, blur 0.3", PROBLEM, DISTANCES, num_points=1024)
    for distance, value in zip(DISTANCES, cost, strict=True):
        p, q = (stats.norm(m, tau).pdf for m in (0.0, distance))

        def integrand(x, p=p, q=q):
            halves = [f(x) * np.log(2 * f(x) / (p(x) + q(x))) / 2 for f in (p, q) if f(x) > 0]
            return sum(halves)

        expected = integrate.quad(integrand, -4, 6, points=[0, distance], limit=200)[0]
        assert value == pytest.approx(expected, abs=0.02)
    assert cost[-1] == pytest.approx(np.log(2), abs=5e-3)
    assert slope[-1] < 1e-2


@pytest.mark.parametrize(
    ("name", "scales"), [("NGMG, scale 1", [1]), ("NGMG, scales 0.5 to 4", [0.5, 1, 2, 4])]
)
def test_mmd_of_a_shift_in_closed_form(name, scales):
    cost, slope = manifold.curve(name, PROBLEM, DISTANCES, num_points=128)
    points = np.asarray(data(128), float)
    squared = ((points[:, None] - points) ** 2).sum(axis=-1)
    among = {s: np.exp(-squared / (2 * s**2)).mean() for s in scales}
    bells = {s: np.exp(-(DISTANCES**2) / (2 * s**2)) for s in scales}
    expected = np.mean([2 * among[s] * (1 - bells[s]) for s in scales], axis=0)
    np.testing.assert_allclose(cost, expected, rtol=1e-3, atol=1e-5)
    expected = np.mean([2 * among[s] * bells[s] * DISTANCES / s**2 for s in scales], axis=0)
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5)


def test_what_an_mmd_pulls_with_is_ngmg():
    y, m = data() + 0.3, data()
    by_shift = jax.grad(lambda t: manifold.mmd(y + t[None], m, None, 1.0))(jnp.zeros(4))
    ngmg_mean = ngmg.gradient(y, np.full(64, 1 / 64), m, 1.0).mean(axis=0)
    np.testing.assert_allclose(by_shift, 2 * ngmg_mean, rtol=1e-3, atol=1e-6)


def test_the_slope_of_w1_by_differences():
    rng = np.random.default_rng(0)
    y, m = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    _, slope = manifold.wasserstein(y, m)
    for axis in np.eye(3):
        ends = [manifold.wasserstein(y + h * axis, m)[0] for h in (1e-6, -1e-6)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope @ axis, abs=1e-4)


def test_what_is_learned():
    runs = {name: manifold.learn(name, PROBLEM) for name in ("W1", "NGMG, scale 1")}
    for values in runs.values():
        assert values.shape == (2, 2, 61)
        np.testing.assert_allclose(values[:, :, 0], 3, rtol=1e-5)
    # W1 moves by the rate at each update, from distance 3 on.
    np.testing.assert_allclose(runs["W1"][0, :, 10], 3 - 0.03 * 10, atol=0.02)
    ends = manifold_report.final(runs["NGMG, scale 1"])
    assert ends[1].max() < 0.5 < 2 < ends[0].min()
    stuck = manifold.learn("JS, blur 0.03", PROBLEM)
    np.testing.assert_allclose(stuck, 3, rtol=1e-3)


def test_the_report_by_hand():
    falling = np.geomspace(1, 1e-3, 61)
    runs = np.stack([np.full((2, 61), 3.0), np.stack([falling, falling])])
    assert manifold_report.best(runs) == 1
    line = manifold_report.table({"cost": runs}, PROBLEM).splitlines()[2].split(" | ")
    # 10^-1 is a third of the way in logarithms.
    assert line[2:] == ["20 ± 0", "0.3 to 0.3", "0.3 |"]
    broken = np.full((2, 2, 61), np.nan)
    line = manifold_report.table({"cost": broken}, PROBLEM).splitlines()[2].split(" | ")
    assert line[1:4] == ["diverged", "-", "none"]


def test_the_command_goes_on_where_it_was_stopped(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        manifold, "COSTS", {name: manifold.COSTS[name] for name in ("W1", "NGMG, scale 1")}
    )
    small = functools.partial(
        manifold.Problem,
        **{
            k: v
            for k, v in dataclasses.asdict(PROBLEM).items()
            if k in ("dim", "batch_size", "num_seeds", "rates")
        },
    )
    monkeypatch.setattr(manifold, "Problem", small)
    arguments = [f"--out={tmp_path}", "--shapes=line", "--steps=3"]
    assert run_manifold.run([*arguments, "--dry_run"]) == 0
    assert "2 costs left" in capsys.readouterr().out
    assert run_manifold.run(arguments) == 0
    assert (tmp_path / "line.png").stat().st_size > 1000
    table = (tmp_path / "line.md").read_text()
    monkeypatch.setattr(manifold, "learn", None)
    assert run_manifold.run(arguments) == 0
    assert "0 costs left" in capsys.readouterr().out
    assert (tmp_path / "line.md").read_text() == table
    assert run_manifold.run([f"--out={tmp_path}", "--shapes=line", "--steps=4"]) == 2

"""What the benchmarks count, fit and estimate, and some of them at toy size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks import estimate, gpu, growth, loop, mixture_stream, operations
from gmm_diffusion import assembly
from gmm_diffusion.mixture.em_steps import (
    Parameters,
    expanded_statistics,
    statistics,
    update,
    whiten,
)
from gmm_diffusion.networks import UNet
from gmm_diffusion.types import Condition


def traced_products(jaxpr):
    """Multiplications with additions of all products and convolutions in a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            total += traced_products(inner)
        out = equation.outvars[0].aval if equation.outvars else None
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += out.size * math.prod(shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel = equation.invars[1].aval
            total += out.size * kernel.size // kernel.shape[numbers.rhs_spec[0]]
    return total


@pytest.mark.parametrize(
    ("side", "settings", "features"),
    [
        (8, (4, (1,), 1, (), False), 0),
        (16, (8, (1, 2), 1, (8,), True), 0),
        (16, (8, (1, 2, 3), 2, (16, 4), True), 5),
        (8, (6, (2, 1), 2, (), True), 3),
    ],
)
def test_operations_of_a_network_are_those_that_jax_traces(side, settings, features):
    network = UNet(*settings)
    image, level = jnp.zeros((1, side, side, 3)), jnp.zeros(1)
    cond = Condition(jnp.zeros((1, features)), jnp.ones(1)) if features else None
    params = jax.eval_shape(network.init, jax.random.key(0), image, level, cond)
    count = operations.unet(side, 3, *settings, condition_features=features)
    assert count.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    traced = jax.make_jaxpr(network.apply)(params, image, level, cond)
    assert count.products == traced_products(traced.jaxpr)
    assert count.update_flops == 6 * count.products


# arXiv 2312.02696, table 2: millions of parameters and Gflops of an evaluation, which take some of
# the element-wise work along.
@pytest.mark.parametrize(
    ("channels", "millions", "gflops"),
    [(128, 125, 46), (192, 280, 102), (256, 498, 181), (320, 777, 282), (448, 1523, 552)],
)
def test_published_networks_have_their_published_sizes(channels, millions, gflops):
    count = operations.unet(64, 4, channels, (1, 2, 3, 4), 3, (16, 8), condition_features=1000)
    assert round(count.parameters / 1e6) == millions
    assert count.products == pytest.approx(1e9 * gflops, rel=0.025)
    assert count.products < 1e9 * gflops


def test_attention_over_all_pixels_grows_as_the_fourth_power():
    small, large = (operations.unet(s, 3, 8, (1,), 1, (s,)) for s in (16, 32))
    assert large.attention == 16 * small.attention
    # Five blocks of 8 channels, of which the second one of the middle does not attend.
    assert small.attention == 4 * 2 * 16**4 * 8
    assert large.products - large.attention < 4 * (small.products - small.attention)


def test_channels_are_rounded_up_to_lanes():
    plain, rounded = (operations.unet(8, 3, 4, (1,), 1, lanes=n) for n in (1, 8))
    assert rounded.parameters == plain.parameters
    # At 64 pixels twelve 3 x 3 kernels, two in each of five blocks, the first and the last one; two
    # of 1 x 1 beside those of the decoder; attention in one block; and all that is no convolution.
    kernels = 64 * 64 * (9 * 12 + 2)
    attention = 64 * (8 * 16 + 8 * 8) + 2 * 64**2 * 4
    assert rounded.products == kernels + attention + 6 * 4 * 4


def em_parameters(kind, num_components, dim):
    root = jnp.broadcast_to(jnp.eye(dim), (num_components, dim, dim))
    root = root if kind == "full" else jnp.ones((num_components, dim))
    means = jnp.zeros((num_components, dim))
    return Parameters(jnp.zeros(num_components), means, root, kind)


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_operations_of_em_are_those_that_jax_traces(kind):
    num_components, dim = 5, 6
    params = em_parameters(kind, num_components, dim)
    sums = statistics if kind == "full" else expanded_statistics

    def iteration(params, x, weights):
        return update(params, sums(whiten(params), x, weights), 1e-6, jax.random.key(0))

    def traced(num_points):
        x, weights = jnp.zeros((num_points, dim)), jnp.ones(num_points)
        return traced_products(jax.make_jaxpr(iteration)(params, x, weights).jaxpr)

    def counted(num_points):
        return operations.em(num_points, dim, num_components, kind).products

    assert traced(700) - traced(300) == counted(700) - counted(300)
    # But for the Cholesky factor, which is no product, and products with single vectors.
    rest = counted(300) - traced(300)
    assert abs(rest) <= num_components * (dim**3 // 6 + 3 * dim**2)


def test_bytes_of_em_are_those_of_its_products():
    # [N, 9] with [9, 3] to [N, 3], and [9, N] with [N, 3] to [9, 3].
    diag = operations.em(100, 4, 3, "diag").num_bytes
    assert diag == 4 * ((900 + 27 + 300) + (900 + 300 + 27))
    # [12, 4] with [4, N] to [12, N], and three times [4, N] with [N, 4] to [4, 4].
    full = operations.em(100, 4, 3, "full").num_bytes
    assert full == 4 * ((48 + 400 + 1200) + 3 * (400 + 400 + 16))
    with pytest.raises(ValueError, match="kind is 'tied'; valid here are 'diag' and 'full'"):
        operations.em(100, 4, 3, "tied")


def test_exponents_are_least_squares():
    assert growth.exponent([3, 5, 8, 20], [2 * s**1.7 for s in (3, 5, 8, 20)]) == pytest.approx(1.7)
    # Logarithms to the base 2: (0, 1, 2, 3) and (0, 1, 1, 2); 3 / 5 by hand.
    assert growth.exponent([1, 2, 4, 8], [1, 2, 2, 4]) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="3 sizes and 3 costs; valid are 4 pairs or more"):
        growth.exponent([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="valid are positive ones"):
        growth.exponent([1, 2, 3, 4], [1, 0, 3, 4])


def test_expected_exponents():
    rows = growth.rows(2)
    found = {
        (row.cost, row.size): growth.exponent(row.values, [row.expected(v) for v in row.values])
        for row in rows
    }
    assert len(found) == len(rows) == 11
    diag, full = "iteration of EM, diag", "iteration of EM, full"
    for key in (("update", "batch"), (diag, "N"), (diag, "K")):
        assert found[key] == pytest.approx(1)
    # 1 + 2 D features.
    assert found[diag, "D"] == pytest.approx(1, abs=0.03)
    assert found[full, "D"] == pytest.approx(2, abs=0.05)
    assert found["update", "side"] == pytest.approx(2, abs=0.01)
    # Between those of the image's channels and of convolutions.
    assert 1.9 < found["update", "channels"] < 2
    assert 2 < found["update, attention over all pixels", "side"] < 4
    # Logarithms (0, 1, 2, 3) and (0, -1, -1, -1) by hand.
    assert found["update", "devices"] == pytest.approx(-0.3)


def test_growth_is_told_as_a_table(monkeypatch, capsys):
    row = growth.Row(
        "EM", "a sum", "N", (1, 2, 4, 8), "1", lambda value: 3 * value, lambda value, _: value**1.5
    )
    monkeypatch.setattr(growth, "rows", lambda _: [row])
    growth.main(["--rows=EM"])
    assert "| a sum | N | 1 2 4 8 | 1.00 | 1 | 1.50 | 1e+03 " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        growth.main(["--rows=EM,none"])
    assert "--rows has none; valid are update, EM, devices" in capsys.readouterr().err


def test_peers_of_a_stream_are_scored_alike(tmp_path):
    path = tmp_path / "points.npy"
    mixture_stream.write_points(path, mixture_stream.HELDOUT + 3000, 4, 3)
    x = np.load(path)
    assert x.dtype == np.float32
    found = {
        name: mixture_stream.worker(name, str(path), 3, 20, 3000)
        for name in ("gmm_diffusion", "sklearn")
    }
    assert [f["points"] for f in found.values()] == [3000, 3000]
    ours, theirs = found.values()
    assert ours["log_likelihood"] == pytest.approx(theirs["log_likelihood"], abs=0.02)
    means = x[:5]
    brute = ((x[:200, None, :].astype(float) - means) ** 2).sum(-1).min(1).mean()
    assert mixture_stream.distance(means, x[:200]) == pytest.approx(brute)


def test_hours_on_paper(capsys):
    # 1e21 FLOPs by 5e14 a second.
    assert estimate.hours(10**9, 1e12, 10, 1e14, 0.5) == pytest.approx(2e6 / 3600)
    with pytest.raises(ValueError, match="utilisation is 0; valid is more than 0"):
        estimate.hours(1, 1, 1, 1, 0)
    assert estimate.cifar().images == 512 * 200_000
    estimate.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * len(estimate.MACHINES)
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[:2] == ["ImageNet-64", "279.8 M"]
    # EDM2-S: 102 Gflops as published, of which a per cent is element-wise; six times two.
    by_hand = 1024 * 2**20 * 6 * 101e9 / (8 * 989e12 * 0.45) / 3600
    assert float(cells[-1]) == pytest.approx(by_hand, rel=0.01)


def test_what_no_longer_fits_is_known_by_what_ran():
    now = [100.0]
    pace = gpu.Pace(2, lambda: now[0])
    assert pace.fits(120)
    assert not pace.fits(121)
    now[0] += 60
    pace.note(30, 60)
    # Twice as long as guessed; a minute is left.
    assert pace.predicted(10) == 20
    assert pace.fits(30)
    assert not pace.fits(31)


def test_batches_are_halved_until_they_fit():
    tried = []

    def measure(batch):
        tried.append(batch)
        if batch > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return "done"

    assert gpu.halving(8, measure) == (2, "done")
    assert tried == [8, 4, 2]

    def broken(batch):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        gpu.halving(8, broken)


def test_all_is_measured_on_a_cpu_at_toy_size(capsys):
    assert gpu.main(["--toy", "--minutes=1000"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    names = ["card", "update", "sampling", "guidance", "EM", "EM", "loop"]
    assert [row[0] for row in rows] == names
    update = rows[1][2]
    count = operations.unet(8, 3, 4, (1,), 1)
    assert update.startswith(f"{count.parameters / 1e6:.3g} M, batch 4: ")
    # Model FLOPs utilisation from the row itself: images a second by the operations, of the rate.
    rate = 1e12 * float(rows[0][2].split()[0])
    images = float(update.split()[-2])
    share = float(rows[1][3].split()[0])
    assert share == pytest.approx(100 * count.update_flops * images / rate, rel=0.02)
    assert all(np.isfinite(float(row[3].split()[0])) for row in rows[1:] if row[0] != "loop")


def test_nothing_is_begun_after_the_time_is_up(capsys):
    assert gpu.main(["--toy", "--minutes=0"]) == 0
    out = capsys.readouterr().out
    assert out.count("left out: about") == 7
    assert "failed" not in out


def test_a_cpu_is_told_to_take_toy_sizes(capsys):
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "JAX finds no accelerator; --toy runs on a CPU" in capsys.readouterr().err


def test_programs_are_counted_while_they_are_compiled():
    double = jax.jit(lambda x: 2 * x)
    with loop.Compiled() as compiled:
        for size in (3, 5, 3, 5):
            double(np.ones(size, np.float32))
    assert compiled.count == 2
    double(np.ones(7, np.float32))
    assert compiled.count == 2


def test_compiling_is_measured_at_toy_size(make_config, capsys):
    config = make_config("tiny")
    config.training.steps_per_call, config.evaluation.loss_levels = 1, 1
    config.sample.steps, config.sample.num = 2, 4
    loop.measure_compile(config, assembly.dataset(config))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows] == [
        "step, 1 updates",
        "held-out losses",
        "sampler, 4 samples",
    ]
    # The second call compiles nothing, or some of these would be less: the update and what fetches
    # its metrics, the losses, the sampler.
    assert [int(row[3]) >= least for row, least in zip(rows, (2, 1, 1), strict=True)] == [True] * 3
    assert all(np.isfinite([float(cell) for cell in row[1:]]).all() for row in rows)

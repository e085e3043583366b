"""The negative mixture and its gradient: formulas by autodiff and SciPy, and properties."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import integrate, optimize
from scipy.spatial import distance

from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import KINDS, GaussianMixture, ngmg

FORMS = ngmg.FORMS
# Compiled as a whole: one by one their operations would take most of the time.
energy, gradient = (jax.jit(f, static_argnames="form") for f in (ngmg.energy, ngmg.gradient))
PEAK = np.exp(-0.5)  # The largest slope of a Gaussian of unit height and scale.


def case(seed=0, num_components=5, dim=3, batch=(7,), spread=2.0):
    """Points around centres, and weights, float32."""
    rng = np.random.default_rng(seed)
    centers = spread * rng.normal(size=(num_components, dim))
    y = spread * rng.normal(size=(*batch, dim))
    weights = rng.dirichlet(np.ones(num_components), size=batch)
    return [jnp.asarray(a, jnp.float32) for a in (y, weights, centers)]


def components(kind, num_components=5, dim=3, seed=0):
    """A mixture of random covariances, and these as matrices `[K, D, D]`."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(num_components, dim, dim)) + 0.5 * np.eye(dim)
    variances = rng.uniform(0.3, 2.0, size=(num_components, dim))
    matrices = {
        "full": lambda: roots @ roots.swapaxes(1, 2),
        "tied": lambda: np.stack([roots[0] @ roots[0].T] * num_components),
        "diag": lambda: np.stack([np.diag(v) for v in variances]),
        "spherical": lambda: np.stack([v[0] * np.eye(dim) for v in variances]),
    }[kind]()
    given = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.einsum("kdd->kd", matrices),
        "spherical": matrices[:, 0, 0],
    }[kind]
    uniform = np.full(num_components, 1 / num_components)
    means = np.zeros((num_components, dim))  # Not used: the centres are an argument of their own.
    return GaussianMixture.create(uniform, means, given, kind), matrices


def scipy_kernel(y, centers, matrices):
    """`exp(-q / 2)` of every pair, float64, by SciPy's Mahalanobis distance: `[N, K]`."""
    columns = [
        distance.cdist(y, [center], "mahalanobis", VI=np.linalg.inv(matrix))[:, 0]
        for center, matrix in zip(np.asarray(centers, float), matrices, strict=True)
    ]
    return np.exp(-0.5 * np.stack(columns, axis=1) ** 2)


SCALES = {"one": 1.3, "several": np.array([0.5, 1.0, 4.0])}
SCALES |= {kind: components(kind)[0] for kind in KINDS}


def matrices_of(name):
    """Covariances `[K, D, D]` of each of the scales that are averaged."""
    if name in KINDS:
        return [components(name)[1]]
    return [np.stack([s**2 * np.eye(3)] * 5) for s in np.atleast_1d(SCALES[name])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SCALES)
def test_the_energy_is_that_of_scipy(name, form):
    y, weights, centers = case()
    expected = []
    for matrices in matrices_of(name):
        peak = (np.asarray(weights, float) * scipy_kernel(y, centers, matrices)).sum(axis=1)
        expected.append(-peak if form == "density" else -np.log(peak))
    actual = energy(y, weights, centers, SCALES[name], form)
    np.testing.assert_allclose(actual, np.mean(expected, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SCALES)
def test_the_gradient_is_that_of_autodiff(name, form):
    y, weights, centers = case()

    @jax.jit
    def automatic(y, weights):
        return jax.vmap(jax.grad(lambda y, w: ngmg.energy(y, w, centers, SCALES[name], form)))(
            y, weights
        )

    actual = gradient(y, weights, centers, SCALES[name], form)
    np.testing.assert_allclose(actual, automatic(y, weights), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "form"), [("several", "density"), ("full", "log")])
@pytest.mark.parametrize("fn", [ngmg.energy, ngmg.gradient], ids=["energy", "gradient"])
def test_any_leading_shape_jitted_mapped_and_differentiated(fn, name, form):
    y, weights, centers = case(batch=(2, 4))
    scale = SCALES[name]
    whole = fn(y, weights, centers, scale, form)  # Not compiled.
    assert whole.shape[:2] == (2, 4)

    @jax.jit
    def others(y, weights, centers, scale):
        def total(y, weights, centers):
            return jnp.sum(fn(y, weights, centers, scale, form) ** 2)

        def one(y, weights):
            return fn(y, weights, centers, scale, form)

        return {
            "jitted": one(y, weights),
            "mapped": jax.vmap(jax.vmap(one))(y, weights),
            "single": one(y[1, 2], weights[1, 2]),
            # One set of weights for all points, one point for all sets of weights.
            "shared": one(y, weights[1, 2]),
            "several": one(y[1, 2], weights),
            "slopes": jax.grad(total, argnums=(0, 1, 2))(y, weights, centers),
        }

    got = others(y, weights, centers, scale)
    near = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(got["jitted"], whole, **near)
    np.testing.assert_allclose(got["mapped"], whole, **near)
    np.testing.assert_allclose(got["single"], whole[1, 2], **near)
    np.testing.assert_allclose(got["shared"][1, 2], whole[1, 2], **near)
    np.testing.assert_allclose(got["several"][1, 2], whole[1, 2], **near)
    assert all(np.isfinite(slope).all() for slope in got["slopes"])


finite = st.floats(-20, 20, width=32)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    point=st.lists(finite, min_size=2, max_size=2),
    centers=st.lists(st.lists(finite, min_size=2, max_size=2), min_size=3, max_size=3),
    share=st.lists(st.floats(0.0, 1.0, width=32), min_size=3, max_size=3),
    # Down to where 1 / s^2 is far from 1; several scales have the mean of their bounds.
    scale=st.lists(st.floats(0.0625, 16, width=32), min_size=1, max_size=3),
)
def test_the_gradient_and_the_hessian_are_bounded(point, centers, share, scale):
    weights = np.asarray(share, np.float32) + np.float32(1e-3)
    weights = weights / weights.sum()
    y, centers, scale = (np.asarray(a, np.float32) for a in (point, centers, scale))
    norm = np.linalg.norm(_gradient(y, weights, centers, scale))
    assert norm <= np.mean(PEAK / scale) * (1 + 1e-4)
    hessian = _hessian(y, weights, centers, scale)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-3 * np.mean(scale**-2.0))
    assert np.linalg.norm(hessian, 2) <= np.mean(scale**-2.0) * (1 + 1e-4)


_gradient = jax.jit(ngmg.gradient)
_hessian = jax.jit(jax.jacfwd(ngmg.gradient))


def test_the_bounds_are_reached():
    # At a distance of one scale from a single centre the slope is largest; at it the curvature is.
    for s in (0.25, 3.0):
        args = (jnp.ones(1), jnp.zeros((1, 2)), s)
        slope = ngmg.gradient(jnp.array([0.0, s]), *args)
        np.testing.assert_allclose(slope, [0, PEAK / s], rtol=1e-6)
        np.testing.assert_allclose(_hessian(jnp.zeros(2), *args), np.eye(2) / s**2, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_of_components_is_that_of_the_smallest_deviation(kind):
    mix, matrices = components(kind)
    smallest = np.sqrt(min(np.linalg.eigvalsh(m)[0] for m in matrices))
    y, weights, centers = case(batch=(400,), spread=1.0)
    norms = np.linalg.norm(gradient(y, weights, centers, mix), axis=-1)
    assert norms.max() <= PEAK / smallest * (1 + 1e-4)
    # Reached along the narrowest direction of that component.
    k = int(np.argmin([np.linalg.eigvalsh(m)[0] for m in matrices]))
    direction = np.linalg.eigh(matrices[k])[1][:, 0]
    point = jnp.asarray(np.asarray(centers[k]) + smallest * direction, jnp.float32)
    slope = gradient(point, jnp.eye(5)[k], centers, mix)
    assert np.linalg.norm(slope) == pytest.approx(PEAK / smallest, rel=1e-4)


@pytest.mark.float64
@pytest.mark.parametrize("form", FORMS)
def test_near_a_centre_it_is_half_the_squared_distance(form):
    s, center = 0.7, jnp.array([[1.0, -2.0, 0.5]])
    direction = np.array([0.6, 0.0, 0.8])
    for r in (1e-2, 1e-3):
        value = ngmg.energy(center[0] + r * direction, jnp.ones(1), center, s, form)
        excess = value + 1 if form == "density" else value
        # The next term of the series is of the order of the square.
        np.testing.assert_allclose(excess, r**2 / (2 * s**2), rtol=r**2 / s**2)


def mmd(centre_law, variance, weights, centers, s):
    """Squared MMD of `N(a, variance)` and `sum_k w_k delta_mu_k` on the line.

    The Gaussian kernel of bandwidth s is the mean of cos(o (x - y)) over `o ~ N(0, 1 / s^2)`
    (Bochner), so it is the mean of `|phi_P(o) - phi_Q(o)|^2`.
    """

    def integrand(o):
        p = np.exp(1j * o * centre_law - variance * o**2 / 2)
        q = (weights * np.exp(1j * o * centers)).sum()
        return abs(p - q) ** 2 * s / np.sqrt(2 * np.pi) * np.exp(-((s * o) ** 2) / 2)

    return integrate.quad(integrand, -12 / s, 12 / s, limit=400)[0]


@pytest.mark.float64
@pytest.mark.parametrize("s", [(0.8,), (0.5, 1.0, 3.0)])
def test_the_energy_is_what_an_mmd_sees_of_the_points(s):
    # MMD^2 = E k(y, y') + E k(m, m') + 2 E energy(y), with the kernel averaged over the scales.
    weights, centers = np.array([0.5, 0.2, 0.3]), np.array([-1.0, 0.4, 2.0])
    mean, variance = 0.3, 0.49
    nodes, quadrature = np.polynomial.hermite_e.hermegauss(80)
    quadrature = quadrature / quadrature.sum()
    y = (mean + np.sqrt(variance) * nodes)[:, None]
    args = (jnp.asarray(weights), jnp.asarray(centers)[:, None], s)
    mean_energy = float((quadrature * np.asarray(ngmg.energy(jnp.asarray(y), *args))).sum())
    kernel = [np.exp(-((centers[:, None] - centers) ** 2) / (2 * one**2)) for one in s]
    among_centers = np.mean([weights @ k @ weights for k in kernel])
    # E k(y, y') of a Gaussian: y - y' has twice its variance.
    among_points = np.mean([one / np.sqrt(one**2 + 2 * variance) for one in s])
    expected = np.mean([mmd(mean, variance, weights, centers, one) for one in s])
    assert among_points + among_centers + 2 * mean_energy == pytest.approx(expected, abs=1e-9)


def squared_mmd(points, targets, s):
    """The identity above for two sets of equally likely points, all terms by `energy`."""
    uniform = [jnp.full(len(a), 1 / len(a)) for a in (points, targets)]
    among_points = -energy(points, uniform[0], points, s).mean()
    among_targets = -energy(targets, uniform[1], targets, s).mean()
    between = energy(points, uniform[1], targets, s).mean()
    return float(among_points + among_targets + 2 * between)


def wasserstein_1(points, targets):
    """W1 between equally many equally likely points, by optimal assignment (SciPy)."""
    cost = distance.cdist(points, targets)
    return cost[optimize.linear_sum_assignment(cost)].mean()


@pytest.mark.float64
@pytest.mark.parametrize("seed", range(3))
def test_mmd_is_at_most_the_wasserstein_distance_over_the_scale(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(20, 3)) * rng.uniform(0.1, 3)
    targets = rng.normal(size=(20, 3)) + rng.normal(size=3) * rng.uniform(0, 3)
    for s in (0.1, 1.0, 10.0):
        value = squared_mmd(jnp.asarray(points), jnp.asarray(targets), s)
        assert np.sqrt(max(value, 0)) <= wasserstein_1(points, targets) / s + 1e-9


@pytest.mark.float64
def test_parallel_lines():
    # Mass on a line, shifted by theta (Arjovsky et al. 2017, example 1): a cost that follows the
    # geometry goes to 0 with theta, one that compares densities does not see how near they are.
    along, s = np.linspace(0, 1, 40), 0.5
    line = np.stack([np.zeros(40), along], axis=1)
    shifted = {theta: line + np.array([theta, 0]) for theta in (1.0, 0.1, 0.01)}
    values = {t: squared_mmd(jnp.asarray(p), jnp.asarray(line), s) for t, p in shifted.items()}
    for theta, points in shifted.items():
        assert wasserstein_1(points, line) == pytest.approx(theta)
        assert np.sqrt(values[theta]) <= theta / s
        both = np.zeros((2, 80))
        both[0, :40] = both[1, 40:] = 1 / 40
        # The supports are disjoint whatever theta: JS is log 2, and KL infinite.
        assert len(np.unique(np.concatenate([points, line]), axis=0)) == 80
        assert distance.jensenshannon(*both) ** 2 == pytest.approx(np.log(2))
    # Its square goes to 0 as theta^2 does.
    assert values[0.01] / values[0.1] == pytest.approx(0.01, rel=0.02)
    # And the gradient points from the shifted line to the other.
    y = jnp.asarray(shifted[0.1])
    slope = ngmg.gradient(y, jnp.full(40, 1 / 40), jnp.asarray(line), s)
    assert np.all(np.asarray(slope)[:, 0] > 0)


@pytest.mark.float64
@pytest.mark.parametrize("name", ["one", "full"])
def test_the_log_form_is_stationary_where_its_responsibilities_say(name):
    _, weights, centers = case(batch=())
    weights, centers = np.asarray(weights, float), np.asarray(centers, float)
    matrices = matrices_of(name)[0]
    precisions = np.linalg.inv(matrices)

    def residual(y):
        joint = weights * scipy_kernel(y[None], centers, matrices)[0]
        return np.einsum("k,kde,ke->d", joint / joint.sum(), precisions, y - centers)

    found = 0
    for start in centers:
        solution = optimize.root(residual, start)
        if solution.success:
            slope = ngmg.gradient(
                jnp.asarray(solution.x),
                jnp.asarray(weights),
                jnp.asarray(centers),
                SCALES[name],
                "log",
            )
            assert np.linalg.norm(slope) < 1e-5  # Mixtures are float32 where they were made so.
            found += 1
    assert found >= 3


def test_the_log_form_does_not_vanish_far_away_and_the_density_form_does():
    centers, weights = jnp.array([[0.0], [1.0]]), jnp.array([0.5, 0.5])
    far = jnp.array([1e4])
    assert ngmg.gradient(far, weights, centers, 1.0) == 0
    slope = ngmg.gradient(far, weights, centers, 1.0, "log")
    np.testing.assert_allclose(slope, 1e4 - 1, rtol=1e-6)  # The nearer centre has it all.
    # Several scales keep a slope at the wrong end: that of the widest.
    near = ngmg.gradient(jnp.array([8.0]), jnp.array([1.0, 0.0]), centers, (0.1, 4.0))
    np.testing.assert_allclose(near, 0.5 * 8 / 16 * np.exp(-2), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_far_away_everything_is_finite(form):
    y, weights, centers = case()

    def total(y, weights, centers, scale):
        return ngmg.energy(y, weights, centers, scale, form).sum()

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    for scale in (SCALES["several"], SCALES["full"]):
        for far in (1e4, 1e15):
            value, slopes = both(y + far, weights, centers, scale)
            assert np.isfinite(value)
            assert all(np.isfinite(slope).all() for slope in slopes)
            assert np.isfinite(gradient(y + far, weights, centers, scale, form)).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_of_zero_is_no_component(form):
    y, _, centers = case()
    weights = jnp.array([0.5, 0.0, 0.3, 0.0, 0.2])
    kept = np.array([0, 2, 4])
    for fn in (energy, gradient):
        np.testing.assert_allclose(
            fn(y, weights, centers, 1.3, form),
            fn(y, weights[kept], centers[kept], 1.3, form),
            rtol=1e-5,
        )


@pytest.mark.parametrize("form", FORMS)
def test_gradients_stay_finite_as_a_weight_goes_to_zero(form):
    centers = jnp.array([[0.0, 0.0], [30.0, 0.0]])

    @jax.jit
    def slopes(y, weights):
        first = jax.grad(ngmg.energy, argnums=(0, 1))(y, weights, centers, 1.0, form)
        second = jax.jacfwd(ngmg.gradient)(y, weights, centers, 1.0, form)
        return *first, second

    for small in (0.0, 1e-45, 1e-38, 1e-30, 1e-8):
        # At the centre whose weight is small, where the other one gives nothing in float32.
        for y in (jnp.zeros(2), jnp.array([15.0, 1.0])):
            values = slopes(y, jnp.array([small, 1.0], jnp.float32))
            assert all(np.isfinite(value).all() for value in values)


def test_attributes_are_pairs_of_centres_summed():
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    attributes = rng.integers(0, 2, size=(6, 4))
    weights = np.stack([1 - attributes, attributes], axis=-1)
    np.testing.assert_array_equal(ngmg.attribute_weights(attributes), weights)
    expected = -np.exp(-0.5 * (np.asarray(y) - attributes) ** 2).sum(axis=1)
    np.testing.assert_allclose(ngmg.attribute_energy(y, attributes, 1.0), expected, rtol=1e-5)
    each = ngmg.energy(y[..., None], weights, jnp.array([[0.0], [1.0]]), 1.0)
    np.testing.assert_allclose(each.sum(axis=-1), expected, rtol=1e-5)


@pytest.mark.parametrize(("scale", "minima"), [(0.45, 2), (0.55, 1)])
def test_two_centres_have_two_minima_below_half_their_distance(scale, minima):
    y = np.linspace(-1, 2, 3001)
    centers = np.array([[0.0], [1.0]])
    values = np.asarray(ngmg.energy(jnp.asarray(y)[:, None], np.full(2, 0.5), centers, scale))
    assert np.sum((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])) == minima


def test_scales_follow_the_distance_between_centres():
    # A chain with gaps 1, 2, 4: nearest distances 1, 1, 2, 4, median 1.5.
    centers = np.array([[0.0], [1.0], [3.0], [7.0]]) * np.array([[0.6, 0.8]])
    assert ngmg.scales(centers) == pytest.approx((0.75, 1.5, 3.0, 6.0))
    assert ngmg.scales(10 * centers, (2.0,)) == pytest.approx((30.0,))
    assert ngmg.scales(np.array(ngmg.ATTRIBUTE_CENTERS), (1.0,)) == (1.0,)


def test_default_scales_give_a_gradient_in_many_dimensions():
    # With one scale of 1 the gradient at another centre is next to nothing; see the module.
    for dim in (16, 32):
        centers = jnp.asarray(np.random.default_rng(0).normal(size=(40, dim)), jnp.float32)
        target = jnp.eye(40)[0]
        plain = np.linalg.norm(gradient(centers[1:], target, centers, 1.0), axis=-1)
        fitted = gradient(centers[1:], target, centers, ngmg.scales(centers))
        assert np.median(plain) < 0.01
        assert np.median(np.linalg.norm(fitted, axis=-1)) > 0.03


Y, W, C = np.zeros((4, 2)), np.full((4, 3), 1 / 3), np.eye(3, 2)
BAD = [
    ({"scale": 0.0}, r"scale is 0; valid are finite numbers above 0"),
    ({"scale": -1.0}, r"scale is -1;"),
    ({"scale": (1.0, -2.0)}, r"scale is -2;"),
    ({"scale": np.nan}, r"scale is nan;"),
    ({"scale": ()}, r"scale has shape \(0,\)"),
    ({"scale": np.ones((2, 2))}, r"scale has shape \(2, 2\)"),
    ({"weights": np.full((4, 3), 0.5)}, r"weights sum to 1\.5; valid"),
    ({"weights": np.array([1.5, -0.5, 0.0])}, r"weights hold -0\.5; valid"),
    ({"weights": np.array([1.0, np.nan, 0.0])}, r"weights hold nan; valid"),
    ({"weights": np.ones((4, 1))}, r"weights has shape \(4, 1\)"),
    ({"centers": np.zeros((3, 5))}, r"centers has shape \(3, 5\); valid for y \(4, 2\)"),
    ({"centers": np.zeros(2)}, r"centers has shape \(2,\)"),
    ({"form": "energy"}, r"form is 'energy'; valid are 'density' and 'log'"),
    ({"scale": components("diag")[0]}, r"scale is a mixture with means of shape \(5, 3\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda v: v if type(v) is str else "")
def test_bad_input_is_named(change, message):
    given = {"y": Y, "weights": W, "centers": C, "scale": 1.0, "form": "density"} | change
    for fn in (ngmg.check, ngmg.energy, ngmg.gradient):
        with pytest.raises(InputError, match=message):
            fn(**given)


def test_bad_attributes_and_centres_are_named():
    with pytest.raises(InputError, match=r"attributes\[0, 1\] is 2; valid are 0 and 1"):
        ngmg.attribute_energy(jnp.zeros((1, 2)), np.array([[0, 2]]), 1.0)
    with pytest.raises(InputError, match=r"attributes\[0\] is 0\.5"):
        ngmg.attribute_weights(np.array([0.5]))
    with pytest.raises(InputError, match=r"centers has shape \(1, 2\)"):
        ngmg.scales(np.zeros((1, 2)))
    with pytest.raises(InputError, match="median distance of 0"):
        ngmg.scales(np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"multiples is \(0.0,\)"):
        ngmg.scales(np.eye(3), (0.0,))

"""Mixture weights: of an example, of a class, and those that the network is trained on.

Lu et al. (arXiv 2401.11261) condition on a distribution described by a mixture. How an example's
weights `w(x)` become the weights that the network sees, its semantics, is our reading:

  example  `w = w(x)`: the model samples `p(x | w(x) = w)`.
  mixture  `w` is drawn so that `p(k | w) = w_k`: the model samples `sum_k w_k p(x | k)`, exactly,
           for any `w`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gmm_diffusion.mixture import GaussianMixture, responsibilities
from gmm_diffusion.types import Array


def one_hot(labels: Array, num_components: int) -> Array:
    """Weights of a laid-out mixture with one component a class: `[N] -> [N, K]`."""
    return jax.nn.one_hot(labels, num_components)


def label_restricted(
    mix: GaussianMixture, features: Array, component_class: Array, labels: Array
) -> Array:
    """Responsibilities `[N, K]` among the components of each example's own class.

    With these, and with their mean as the base, `w = p(k | class)` samples the class exactly.

    Args:
      mix: the mixture; component k belongs to class `component_class[k]`.
      features: `[N, D]`.
      component_class: `[K]` integers.
      labels: `[N]` integers; each class must have a component.
    """
    own = component_class[None] == labels[:, None]
    allowed = jnp.where(own, mix.weights[None], 0.0)
    return responsibilities(mix, features, weights=allowed / allowed.sum(axis=1, keepdims=True))


def mean_by_class(weights: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """What a class means in weights, `p(k | class)`: `[N, K], [N] -> [classes, K]`."""
    own = [weights[labels == label] for label in range(num_classes)]
    return np.stack([rows.mean(axis=0, dtype=np.float64) for rows in own]).astype(np.float32)


def example_semantics(keys: Array, weights: Array, base: Array, group: Array) -> Array:
    """The example's own weights, unchanged (method `example`)."""
    del keys, base, group
    return weights


def mixture_semantics(
    keys: Array,
    weights: Array,
    base: Array,
    group: Array,
    *,
    concentration: tuple[float, float] = (0.1, 30.0),
    shares: tuple[float, float] = (0.2, 0.6),
    one_hot_share: float = 0.9,
) -> Array:
    """Random weights `w` with `p(k | w) = w_k`, given an example's responsibilities.

    By conjugacy: `k ~ r(x)`, then `w ~ Dirichlet(a base + e_k)` has the marginal
    `Dirichlet(a base)` and the posterior `p(k | w) = w_k`. This holds for every prior with mean
    `base`, so four families are mixed, in shares that depend on nothing: single components,
    `w = e_k`, which are all that a request drawn by component asks for; over all components;
    within one group of components (a group is a class, or a single component where there are no
    classes), which covers "a 7"; and a blend of two groups, which covers "half 3, half 8". The
    blend is `v w1 + (1 - v) w2` with `v` uniform a priori and the groups drawn from their total
    base; given k, `v ~ Beta(2, 1)` on the side of k.

    Args:
      keys: `[B]` typed keys.
      weights: `[B, K]` responsibilities of each example.
      base: `[K]` mean responsibilities over the training distribution, all positive.
      group: `[K]` integers, the group of each component.
      concentration: range of `a`, drawn log-uniformly; small is one-hot, large is spread.
      shares: over all components and within one group, among draws that are not one-hot; the rest
        of these are blends.
      one_hot_share: of single components among all draws; the more, the better the network knows
        them, and the worse it answers spread weights.

    Returns:
      `[B, K]` weights.
    """
    log_low, log_high = np.log(concentration[0]), np.log(concentration[1])
    same_group = group[:, None] == group[None]
    within = base[None] * same_group
    within = within / within.sum(axis=1, keepdims=True)

    def one(key, own):
        def fold(i):
            return jax.random.fold_in(key, i)

        k = jax.random.categorical(fold(0), jnp.log(own))
        j = jax.random.categorical(fold(1), jnp.log(base))
        a = jnp.exp(jax.random.uniform(fold(2), minval=log_low, maxval=log_high))
        family = jax.random.uniform(fold(3))
        prior = jnp.where(family < shares[0], base, within[k])
        first, second = _dirichlet(
            fold(4), jnp.stack([a * prior + jax.nn.one_hot(k, base.shape[0]), a * within[j]])
        )
        blended = family >= shares[0] + shares[1]
        share = jnp.where(blended, jnp.sqrt(jax.random.uniform(fold(5))), 1.0)
        spread = share * first + (1.0 - share) * second
        single = jax.random.uniform(fold(6)) < one_hot_share
        return jnp.where(single, jax.nn.one_hot(k, base.shape[0]), spread)

    return jax.vmap(one)(keys, weights)


def _dirichlet(key: Array, alpha: Array) -> Array:
    """Dirichlet draws `[..., K]`, in log space as small `alpha` underflow; `alpha` 0 gives 0."""
    log_gamma = _log_gamma(key, jnp.where(alpha > 0, alpha, 1.0))
    return jax.nn.softmax(jnp.where(alpha > 0, log_gamma, -jnp.inf), axis=-1)


def _log_gamma(key: Array, alpha: Array) -> Array:
    """Logarithms of gamma draws, of the shape of `alpha` (Marsaglia & Tsang 2000).

    `jax.random.loggamma` takes a CPU one entry after the other; this rejects for all at once.
    """
    # Gamma(a) is Gamma(a + 1) U^(1/a), which takes rejection to where it rarely rejects.
    d = jnp.where(alpha < 1, alpha + 1, alpha) - 1 / 3

    def propose(state):
        i, done, chosen = state
        normal_key, uniform_key = jax.random.split(jax.random.fold_in(key, i))
        z = jax.random.normal(normal_key, alpha.shape)
        root = 1 + z / jnp.sqrt(9 * d)
        log_v = 3 * jnp.log(jnp.maximum(root, 1e-30))
        log_u = jnp.log1p(-jax.random.uniform(uniform_key, alpha.shape))
        accept = (root > 0) & (log_u < 0.5 * z**2 + d * (1 - jnp.exp(log_v) + log_v))
        return i + 1, done | accept, jnp.where(done, chosen, log_v)

    start = jnp.int32(1), jnp.zeros(alpha.shape, bool), jnp.zeros(alpha.shape)
    _, _, log_v = jax.lax.while_loop(lambda state: ~state[1].all(), propose, start)
    log_u = jnp.log1p(-jax.random.uniform(jax.random.fold_in(key, 0), alpha.shape))
    return jnp.log(d) + log_v + jnp.where(alpha < 1, log_u / alpha, 0.0)


SEMANTICS = {"example": example_semantics, "mixture": mixture_semantics}

"""Learning-rate schedules, Adam and gradient descent."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from gmm_diffusion.errors import InputError
from gmm_diffusion.types import Array


def _edm2(update: Array, peak: float, warmup: int, decay_steps: int, num_steps: int) -> Array:
    """Inverse square root of time from `decay_steps` on (Karras et al., arXiv 2312.02696)."""
    del warmup, num_steps
    return peak / jnp.sqrt(jnp.maximum(update / max(decay_steps, 1), 1))


def _cosine(update: Array, peak: float, warmup: int, decay_steps: int, num_steps: int) -> Array:
    """Half a cosine from the end of the ramp down to 0 at the end of the run."""
    del decay_steps
    progress = jnp.clip((update - warmup) / max(num_steps - warmup, 1), min=0, max=1)
    return peak * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _constant(update: Array, peak: float, warmup: int, decay_steps: int, num_steps: int) -> Array:
    del warmup, decay_steps, num_steps
    return jnp.full_like(update, peak)


SCHEDULES = {"edm2": _edm2, "cosine": _cosine, "constant": _constant}


def learning_rate(
    kind: str, peak: float, warmup_steps: int, decay_steps: int, num_steps: int
) -> Callable[[Array | int], Array]:
    """A learning-rate schedule behind a linear ramp.

    With `t = count + 1`, the 1-based number of the update, the rate is `min(t / warmup, 1)` times
    `peak / sqrt(max(t / decay_steps, 1))` for "edm2" (arXiv 2312.02696), `peak` for "constant",
    and half a cosine from `peak` at the end of the ramp to 0 at `num_steps` for "cosine". So no
    update is made with a rate of 0, except the last of a cosine. A run that is given another
    `num_steps` follows the new cosine from where it stands, whose rate there is another.

    Args:
      kind: a key of `SCHEDULES`.
      peak: the largest rate, positive.
      warmup_steps: length of the ramp, 0 for none; at most half of the run is used.
      decay_steps: where "edm2" starts to fall; the other kinds ignore it.
      num_steps: length of the run, in updates.

    Returns:
      An optax schedule: `[]` number of updates already made -> `[]` float32 rate.

    Raises:
      InputError: no such kind.
    """
    if kind not in SCHEDULES:
        raise InputError(
            f"optimizer.schedule is {kind!r}, which is not one of {', '.join(SCHEDULES)}."
        )
    shape = SCHEDULES[kind]
    warmup = max(min(warmup_steps, num_steps // 2), 0)

    def schedule(count):
        update = jnp.asarray(count, jnp.float32) + 1
        ramp = jnp.minimum(update / max(warmup, 1), 1)
        return ramp * shape(update, peak, warmup, decay_steps, num_steps)

    return schedule


def make_optimizer(
    schedule: Callable[[Array | int], Array],
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, arXiv 1412.6980) on gradients of bounded norm.

    Args:
      schedule: from `learning_rate`.
      b1: decay of the mean of gradients, in [0, 1).
      b2: decay of the mean of squared gradients, in [0, 1).
      eps: added to the root of the second moment.
      clip_norm: gradients whose norm over all leaves exceeds this are scaled down to it; 0 for
        no bound.
    """
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.scale_by_learning_rate(schedule),
    )


def make_sgd(
    schedule: Callable[[Array | int], Array], momentum: float = 0.0, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """Gradient descent with heavy-ball momentum, `m <- momentum m + g`.

    Args:
      schedule: from `learning_rate`.
      momentum: in [0, 1); 0 is plain gradient descent.
      clip_norm: as in `make_optimizer`.
    """
    return optax.chain(
        _clip(clip_norm), optax.trace(momentum), optax.scale_by_learning_rate(schedule)
    )


def _clip(clip_norm):
    # A link either way, so that a run resumes after the bound was switched off.
    return optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()

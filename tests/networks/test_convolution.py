"""The convolution and its hand-written gradients against XLA's own autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gmm_diffusion.networks.convolution import conv2d


def reference(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arrays(size, batch=3, height=6, width=7, channels=(4, 5), seed=0):
    rng = np.random.default_rng(seed)
    shapes = (
        (batch, height, width, channels[0]),
        (size, size, *channels),
        (
            batch,
            height,
            width,
            channels[1],
        ),
    )
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), actual, expected
    )


def gradients(function):
    """Of a loss whose gradient at the output differs from place to place."""
    return jax.grad(lambda x, kernel, out: jnp.sum(jnp.tanh(function(x, kernel)) * out), (0, 1))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_forward_and_both_gradients(size):
    x, kernel, out = arrays(size)
    assert_close(conv2d(x, kernel), reference(x, kernel))
    assert_close(jax.jit(gradients(conv2d))(x, kernel, out), gradients(reference)(x, kernel, out))


def test_forward_is_the_sum_over_a_window():
    """One pixel and one corner by hand, so that the reference's own layout is checked too."""
    x, kernel, _ = arrays(3)
    y, x, kernel = (np.asarray(a, np.float64) for a in (conv2d(x, kernel), x, kernel))
    expected = np.einsum("hwc,hwco->o", x[1, 2:5, 3:6], kernel)
    np.testing.assert_allclose(y[1, 3, 4], expected, rtol=1e-4, atol=1e-5)
    corner = np.einsum("hwc,hwco->o", x[1, :2, :2], kernel[1:, 1:])
    np.testing.assert_allclose(y[1, 0, 0], corner, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_inside_a_scan(size):
    x, kernel, _ = arrays(size, channels=(4, 4))

    def loss(function, kernel):
        def body(x, _):
            x = jnp.tanh(function(x, kernel))
            return x, jnp.sum(jnp.square(x))

        return jnp.sum(lax.scan(body, x, length=3)[1])

    expected = jax.grad(lambda kernel: loss(reference, kernel))(kernel)
    assert_close(jax.jit(jax.grad(lambda kernel: loss(conv2d, kernel)))(kernel), expected)


def test_one_gradient_step_a_scan_iteration():
    """The shape of training: the gradient itself is taken inside the loop."""
    x, kernel, out = arrays(3)

    def train(function):
        def body(kernel, _):
            return kernel - 0.01 * gradients(function)(x, kernel, out)[1], None

        return lax.scan(body, kernel, length=3)[0]

    assert_close(jax.jit(lambda: train(conv2d))(), train(reference))


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_under_vmap_over_kernels(size):
    x, _, out = arrays(size)
    kernels = jnp.stack([arrays(size, seed=seed)[1] for seed in range(3)])
    mapped = jax.jit(jax.vmap(gradients(conv2d), (None, 0, None)))(x, kernels, out)
    expected = [gradients(reference)(x, kernel, out) for kernel in kernels]
    assert_close(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_gradients_under_pmap():
    devices = jax.local_device_count()
    assert devices == 4
    x, kernel, out = arrays(3, batch=2 * devices)
    shards = [a.reshape(devices, 2, *a.shape[1:]) for a in (x, out)]

    def device(x, out):
        x_gradient, kernel_gradient = gradients(conv2d)(x, kernel, out)
        return x_gradient, lax.psum(kernel_gradient, "devices")

    x_gradient, kernel_gradient = jax.pmap(device, "devices")(*shards)
    expected = gradients(reference)(x, kernel, out)
    assert_close((x_gradient.reshape(x.shape), kernel_gradient[0]), expected)


def test_second_derivatives():
    """Guidance differentiates through the network, and training through guidance."""
    x, kernel, out = arrays(3, batch=1, height=4, width=4, channels=(2, 2))

    def twice(function):
        def norm(kernel):
            return jnp.sum(jnp.square(gradients(function)(x, kernel, out)[0]))

        return jax.grad(norm)(kernel)

    assert_close(jax.jit(lambda: twice(conv2d))(), twice(reference))


def test_bfloat16_in_bfloat16_out():
    x, kernel, out = (a.astype(jnp.bfloat16) for a in arrays(3))
    y, pullback = jax.vjp(conv2d, x, kernel)
    assert [a.dtype for a in (y, *pullback(out))] == [jnp.bfloat16] * 3
    exact = reference(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.1)

"""What `benchmarks/tpu_compile.py` reads in compiled programs, and one program of a TPU."""

import importlib.util
import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion.networks.convolution import conv2d

REPOSITORY = pathlib.Path(__file__).parents[1]
SCRIPT = REPOSITORY / "benchmarks" / "tpu_compile.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def compiled(fn, *arguments):
    return jax.jit(fn).lower(*arguments).compile().as_text()


def test_arrays_are_padded_to_their_tiles(script):
    padded = script["padded"]
    # Channels in the lanes: 32 of 128 are used. Or the batch in them, and channels in eights.
    assert padded([32, 8, 8, 32], [3, 0, 2, 1], [8, 128]) == 32 * 8 * 8 * 128
    assert padded([256, 8, 8, 9], [0, 3, 2, 1], [8, 128]) == 256 * 8 * 8 * 16
    assert padded([100], [0], [128]) == 128
    assert padded([], [], [128]) == 1


# As libtpu writes it, shortened.
TPU_TEXT = """\
%fused (p: f32[3,3,8,16]) -> f32[32,8,8,16] {
  %p = f32[3,3,8,16]{3,2,1,0:T(8,128)S(1)} parameter(0)
  %x.1 = bf16[32,8,8,8]{3,0,2,1:T(8,128)(2,1)} fusion(%p), kind=kLoop, calls=%other
  ROOT %c = f32[32,8,8,16]{3,0,2,1:T(8,128)} convolution(%x.1, %p), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/UNet/block/conv_0/conv_general_dilated"}
}

%second (p: f32[8,128]) -> f32[8,8] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %d = f32[8,8]{1,0:T(8,128)} convolution(%p, %p), dim_labels=bf_oi->bf, \
operand_precision={highest,highest}
}
"""


def test_convolutions_are_found_with_what_they_read(script):
    first, second = script["products"](TPU_TEXT)
    assert first.place == "block/conv_0/conv_general_dilated"
    x, kernel = "bf16[32,8,8,8]{3,0,2,1:T(8,128)(2,1)}", "f32[3,3,8,16]{3,2,1,0:T(8,128)S(1)}"
    assert first.arrays == [x, kernel]
    assert first.entries == 32 * 8 * 8 * 8 + 3 * 3 * 8 * 16
    assert first.stored == 32 * 8 * 8 * 128 + 3 * 3 * 8 * 128
    assert first.rounded
    assert second[2:] == (2 * 8 * 128, 2 * 8 * 128, False)
    told, faults = script["inspect"](TPU_TEXT)
    assert faults == []
    assert any("2 convolutions and products, 1 of them of float32 rounded" in line for line in told)


def test_calls_of_the_host_are_found(script):
    def asks(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((4,), np.float32), x)

    assert script["inspect"](compiled(jnp.sin, jnp.ones(4)))[1] == []
    (fault,) = script["inspect"](compiled(asks, jnp.ones(4)))[1]
    assert "callback" in fault
    line = '  %i = ((f32[8]{0:T(128)}, u32[]), token[]) infeed(%t), infeed_config=""\n'
    (fault,) = script["inspect"](TPU_TEXT + line)[1]
    assert "1 infeed" in fault


def test_the_gradient_that_is_for_the_cpu_is_found(script):
    def gradient(x, kernel):
        return jax.grad(lambda kernel: jnp.sum(conv2d(x, kernel) ** 2))(kernel)

    x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    (fault,) = script["inspect"](compiled(gradient, x, kernel))[1]
    assert "code for the CPU" in fault
    assert script["inspect"](compiled(conv2d, x, kernel))[1] == []


def test_other_data_are_refused(script, make_config):
    with pytest.raises(ValueError, match="The data are 'toy'; valid here are digits"):
        script["random_data"](make_config("toy"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_train_step_compiles_for_a_tpu(tmp_path):
    """In another process: libtpu in this one would change how JAX starts."""
    config = REPOSITORY / "configs" / "tiny.py"
    line = [sys.executable, SCRIPT, f"--config={config}", "--part=step", f"--save={tmp_path}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert "no transfer to or from the host, no foreign call, no code for the CPU" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| tiny step")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Per device: parameters, two moments and two averages in float32, and 4 batches of 8 images.
    assert float(cells[2]) > 5 * 8183 * 4 / 2**20
    # Some 1.1 MFLOP forwards for an image, three times that with the gradient, for 8 images.
    assert float(cells[5]) == pytest.approx(8 * 3 * 1.1e-3, rel=0.3)
    assert "T(8,128)" in (tmp_path / "tiny-step-v5e-2x2.txt").read_text()

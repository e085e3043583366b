"""Without the extra [data]: everything works but TFDS datasets and TensorBoard, which say so."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

REPOSITORY = pathlib.Path(__file__).parents[1]

# Each finder answers as if the packages were not installed, so that looking for one gives None
# and importing it raises ModuleNotFoundError, as on a machine without them.
HIDE = """
    import sys

    HIDDEN = ("tensorflow", "tensorboard", "tensorflow_datasets", "importlib_resources")

    class Without:
        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in HIDDEN:
                return None
            return self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
SCRIPT = """
    import importlib.util
    import os
    for name in HIDDEN:
        assert importlib.util.find_spec(name) is None
        try:
            __import__(name)
        except ModuleNotFoundError:
            continue
        raise AssertionError(name)

    from gmm_diffusion import main
    tiny, workdir = "--config=configs/tiny.py", f"--workdir={sys.argv[1]}"
    assert main.run(["main", tiny, workdir]) == 0
    assert main.run(["main", "--mode=sample", workdir, "--config.sample.condition=7"]) == 0
    assert main.run(["main", "--mode=evaluate", workdir]) == 0
    print("REFUSED", file=sys.stderr)
    cifar = os.path.abspath("configs/cifar_gmm.py")
    os.chdir(sys.argv[2])
    assert main.run(["main", f"--config={cifar}"]) == 2
    assert not {"tensorflow", "tensorflow_datasets", "tensorboard"} & set(sys.modules)
"""


def test_the_tiny_config_runs_without_it(tmp_path):
    code = textwrap.dedent(HIDE) + textwrap.dedent(SCRIPT)
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run", tmp_path / "elsewhere"],
        cwd=REPOSITORY,
        env=os.environ
        | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = {p.name for p in (tmp_path / "run").iterdir()}
    assert not any(name.startswith("events.out") for name in written)
    assert {"metrics.jsonl", "evaluation.json", "config.json"} <= written
    assert (tmp_path / "run" / "samples" / "class-7.npz").exists()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["tensorboard"] is True, "asked for, and done without"
    work, refused = done.stderr.split("REFUSED")
    assert "Traceback" not in work
    place, sentence = refused.strip().splitlines()
    assert place == "The directory of the run is runs/cifar_gmm."
    assert sentence.startswith("Error: dataset cifar10 needs tensorflow")
    assert f"install it with `pip install -e '{REPOSITORY}[data]'`" in sentence
    assert "--config.data.name=cifar_archive --config.data.data_dir=FILE" in sentence
    assert "digits, toy and faces" in sentence
    assert not list((tmp_path / "elsewhere").iterdir())

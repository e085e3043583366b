"""What a run does before its first updates: what it imports, and how much it compiles."""

import json
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]
SCRIPT = """
import json, logging, sys
import jax
from gmm_diffusion import main

class First(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("First steps done"):
            before.extend(compiled)

compiled, before = [], []
logging.getLogger("gmm_diffusion.commands.loop").addHandler(First())
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **more: "backend_compile" in name and compiled.append(more.get("fun_name"))
)
status = main.run(["main", *sys.argv[1:]])
print(json.dumps([status, before, sorted(sys.modules)]))
"""
# Needed by no run on digits that is not evaluated and writes no TensorBoard events.
LATER = (
    "clu.metric_writers",
    "gcsfs",
    "grain",
    "matplotlib",
    "tensorboard",
    "tensorflow",
    "tensorflow_datasets",
    "wandb",
)


def test_a_start_imports_and_compiles_little(tmp_path):
    options = {
        "training.num_steps": 4,
        "training.heldout_every": 0,
        "training.tensorboard": "false",
        "evaluation.at_end": "false",
    }
    line = [f"--config.{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-c", SCRIPT, "--config=configs/tiny.py", f"--workdir={tmp_path}/r"]
    done = subprocess.run(
        [*command, *line], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    status, compiled, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert [name for name in LATER if name in modules] == []
    # Each costs some hundredths of a second, compiled or read. The update and what fetches its
    # metrics, the state and its copies, EM with its start and keys, features, weights.
    assert "jit(_fun)" in compiled
    # Conversions of arrays that the host has already rounded compile nothing.
    assert compiled.count("jit(convert_element_type)") <= 2, compiled
    assert len(compiled) <= 55, compiled

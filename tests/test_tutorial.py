"""docs/tutorial.md, command by command as the page has them, on images of a few pixels."""

import contextlib
import io
import json
import pathlib
import re
import shlex

import numpy as np
from PIL import Image

from gmm_diffusion import inspect_data
from gmm_diffusion import main as main_module
from gmm_diffusion.report import __main__ as report

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "tutorial.md").read_text()
MODULES = {
    "gmm_diffusion.inspect_data": inspect_data.run,
    "gmm_diffusion.main": main_module.run,
    "gmm_diffusion.report": lambda argv: report.run(argv[1:]),
}
# Behind the page's own config, whose function it calls.
SMALL = """
_page = get_config


def get_config():
    config = _page()
    config.data.resolution = 8
    config.conditioning.feature_dim = 4
    config.conditioning.em_starts = 1
    config.network.channels = 8
    config.network.channel_mult = (1,)
    config.training.num_steps = 200 // 50
    config.training.batch_size = 8
    config.training.steps_per_call = 1
    config.training.log_every = 4
    config.training.heldout_every = 2
    config.training.tensorboard = False
    config.checkpoint.every = 2
    config.checkpoint.snapshot_every = 1
    config.evaluation.judge_epochs = 1
    config.evaluation.loss_levels = 2
    config.sample.steps = 2
    return config
"""


def commands():
    """Each command of the page as a list of arguments, in their order."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def photographs(folder):
    """Two folders of images with the page's names, which a judge can tell apart."""
    rng = np.random.default_rng(0)
    for name, level in (("horse", 40), ("ship", 150)):
        (folder / name).mkdir(parents=True)
        for i in range(48):
            pixels = rng.integers(0, 60, (12, 10, 3)) + level
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:04}.jpg")


def test_every_command_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos")
    (config,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert "num_steps = 200" in config
    (tmp_path / "photos.py").write_text(config + SMALL)
    printed = []
    for arguments in commands():
        assert arguments[:2] == ["python", "-m"]
        # A fiftieth of the updates.
        rest = [re.sub(r"(guide_step=)50$", r"\g<1>1", text) for text in arguments[3:]]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = MODULES[arguments[2]](["command", *rest])
        assert status == 0, (arguments, err.getvalue())
        printed.append(out.getvalue())
    assert "2: horse (" in printed[0]
    assert "K = " in printed[1]
    run = tmp_path / "runs" / "photos"
    # Every file that the page names, and what is said of it.
    for name in sorted(set(re.findall(r"`((?:looked|runs)/[\w./=-]+\.\w+)`", PAGE))):
        name = re.sub(r"step_(\d+)", lambda found: f"step_{int(found[1]) // 50}", name)
        assert (tmp_path / name).is_file(), name
    plain, guided = (
        json.loads((run / name).read_text())
        for name in ("evaluation.json", "evaluations/guided.json")
    )
    assert plain["step"] == guided["step"] == 4
    assert plain["settings"]["guidance.kind"] == "none"
    assert guided["settings"]["guidance.scale"] == 2
    assert guided["cost"]["guide_evaluations"] > 0
    assert plain["metrics"].keys() == guided["metrics"].keys()
    # Both evaluations, told apart by what differs.
    assert "| auto |" in printed[-1]
    assert "| none |" in printed[-1]

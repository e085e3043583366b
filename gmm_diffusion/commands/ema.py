"""`--mode=ema`: an average of any width is made of a run's snapshots."""

from ml_collections import ConfigDict

from gmm_diffusion import paths, processes
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import snapshots, workdir
from gmm_diffusion.runs.param_files import export_params


def ema(config: ConfigDict, run_dir: str) -> None:
    """Writes the average of width `sample.ema` at `sample.step` to `run_dir/ema`.

    The file is plain, `width_0.15_step_1200.npz`; see `assembly.load.load_params`.

    Raises:
      InputError: `sample.ema` is 0, or there are no snapshots of that step.
      RunError: the file cannot be written.
    """
    if not config.sample.ema:
        raise InputError("sample.ema is 0.0; --mode=ema needs the width of an average.")
    if not processes.is_first():
        return
    path = workdir.directory(run_dir)
    kept, step = path / workdir.SNAPSHOTS, config.sample.step or None
    made = snapshots.reconstruct(kept, step, config.sample.ema)
    file = path / workdir.AVERAGES / snapshots.file_name(made.width, made.step)
    with paths.writing(file):
        export_params(made.params, file)
    # Of what quality it is, the log has said.
    print(file)

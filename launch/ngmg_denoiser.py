"""Denoisers of digits with a classifier beside, by NGMG and by cross-entropy: how stable, how good.

  python launch/ngmg_denoiser.py --out=runs/ngmg_denoiser [training.num_steps=300 ...]

Runs configs/sweeps/ngmg.py by launch/sweep.py, whose options it takes, and writes OUT/table.md; the
same command goes on with what is left. About 25 minutes on two CPU cores; the time comes first.

Exit status: that of launch/sweep.py.
"""

import pathlib
import runpy
import sys

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from gmm_diffusion.experiments import denoiser_runs

LAUNCH = pathlib.Path(__file__).resolve().parent


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    if any(argument in ("--help", "-h") for argument in argv):
        print(__doc__)
        return 0
    sweep = LAUNCH.parent / "configs" / "sweeps" / "ngmg.py"
    status = runpy.run_path(str(LAUNCH / "sweep.py"))["run"]([str(sweep), *argv])
    if status or "--dry_run" in argv:
        return status
    out = next(a.removeprefix("--out=") for a in argv if a.startswith("--out="))
    text = denoiser_runs.table(denoiser_runs.read(pathlib.Path(out)))
    (pathlib.Path(out) / "table.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

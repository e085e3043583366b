"""Denoisers of digits with a classifier beside, by NGMG and by cross-entropy: how stable, how good.

  python -m experiments.run_denoiser --out=runs/ngmg_denoiser [training.num_steps=300 ...]

Runs configs/sweeps/ngmg.py by gmm_diffusion.sweep, whose options it takes, and writes
OUT/table.md; the same command goes on with what is left. About 40 minutes on two CPU cores; the
time comes first.

Exit status: that of gmm_diffusion.sweep.
"""

import pathlib
import sys

from experiments import denoiser_runs, flags
from gmm_diffusion import command_line
from gmm_diffusion.data import digits
from gmm_diffusion.sweep import __main__ as sweep

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    if any(argument in ("--help", "-h") for argument in argv):
        print(__doc__)
        return 0
    return command_line.ended(lambda: _work(argv))


def _work(argv):
    parser = flags.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=flags.folder, required=True)
    out = parser.parse_known_args(argv)[0].out  # The sweep takes the rest.
    plan = ROOT / "configs" / "sweeps" / "ngmg.py"
    status = sweep.run([str(plan), *argv])
    if status or "--dry_run" in argv:
        return status
    heldout = digits().heldout

    def accuracy(run):
        folder = out / "accuracy" / run.relative_to(out).parent
        return denoiser_runs.heldout_accuracy(run, heldout, folder)

    groups = denoiser_runs.read(out, accuracy)
    steady = "Gradients and spikes are of the runs that did not diverge."
    text = f"{denoiser_runs.table(groups)}\n\n{steady}\n\n{denoiser_runs.changes(groups)}"
    (out / "table.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

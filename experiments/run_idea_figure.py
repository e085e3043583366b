"""The figure of the idea, from the runs of configs/sweeps/comparison.py.

  python -m experiments.run_idea_figure --out=DIR     DIR is that of the sweep

Writes DIR/idea.png and prints the defect rates of its panels. Exit status: 0 done, 1 failed, 2 bad
input.
"""

import sys

from experiments import flags, idea_figure, stoppable
from gmm_diffusion import assembly
from gmm_diffusion.runs.workdir import read_config

NUM = 8192
RUNS = {
    "conditioned on classes": "seed0-kind=class-embedding=table",
    "conditioned on a mixture": "seed0-kind=gmm-num_components25-embedding=mean_embedding"
    "-semantics=example",
}


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    parser = flags.Parser(description=__doc__)
    parser.add_argument("--out", type=flags.folder, required=True)
    return stoppable.run(lambda poll: _draw(parser.parse_args(argv).out))


def _draw(out):
    folders = {title: out / "toy" / name for title, name in RUNS.items()}
    data = assembly.dataset(read_config(folders["conditioned on classes"]))
    panels = [(title, idea_figure.model_samples(folder, NUM)) for title, folder in folders.items()]
    rates = idea_figure.plot(data, panels, str(out / "idea.png"))
    for title, rate in rates.items():
        print(f"{title}: {rate:.4f}")
    print(f"Figure: {out / 'idea.png'}")


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

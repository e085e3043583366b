"""Runs grids of configs and seeds: `python -m gmm_diffusion.sweep`, from any directory."""

import pathlib
import sys

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from gmm_diffusion.sweep.__main__ import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

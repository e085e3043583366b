"""How to install what is optional: advice that works where this package lies."""

import pathlib
import shlex

ROOT = pathlib.Path(__file__).parents[1]


def advice(extra: str) -> str:
    """The command that installs an extra of setup.py, in backquotes.

    The package is in no registry: it is installed from its clone, which this is, unless pip has
    copied it elsewhere.

    Args:
      extra: such as "data".
    """
    if (ROOT / "setup.py").is_file():
        return f"`pip install -e {shlex.quote(f'{ROOT}[{extra}]')}`"
    return f"`pip install '.[{extra}]'` in the clone of gmm_diffusion"

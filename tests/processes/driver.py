"""One of two processes: several commands one after the other, and what processes tell each other.

`driver.py FOLDER LINE... --coordinator=... --processes=2 --process=I`; a line is one command's
arguments. What this process saw is in `FOLDER/seen_I.json`.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from gmm_diffusion import devices, main, processes
from gmm_diffusion.errors import InputError
from gmm_diffusion.process_group import ProcessGroup


def work(folder, lines, group):
    with processes.joined(group):
        statuses = [main.do(main.parse(["main", *line.split("\n")])) for line in lines]
        seen = told(group.index) | {"statuses": statuses}
        (folder / f"seen_{group.index}.json").write_text(json.dumps(seen))


def told(index):
    """What this process is told, where the two have different things to say."""
    arrays = {"x": np.array([-0.0, 1.5, np.inf]), "n": np.array([[3, 4]], np.uint8)}
    arrays = {name: value * value.dtype.type(1 + index) for name, value in arrays.items()}
    first = devices.of_first(arrays)
    seen = {
        "highest": [devices.highest(3 + index), devices.highest(3 - index), devices.highest(0)],
        "first": processes.of_first(lambda: {"by": index}),
        "step": processes.same_step(lambda: Step(7), Step).step,
        "no step": processes.same_step(lambda: None, Step),
        "arrays": {name: value.tolist() for name, value in first.items()},
        "types": [str(first["x"].dtype), str(first["n"].dtype)],
        "own": [devices.own(8).start, devices.own(8).stop],
        "sizes": [len(devices.found()), jax.local_device_count()],
        "differ": "",
    }
    processes.same("Things", lambda: {"a": 1, "b": [2, 3]})
    try:
        processes.same("Things", lambda: {"a": 1, "b": index, "c": "x"})
    except InputError as error:
        seen["differ"] = str(error)
    examples = np.arange(10, dtype=np.float32)
    mapped = devices.map_examples(lambda shared, x: shared * x, 8)
    seen["mapped"] = mapped(np.float32(2), examples).tolist()
    return seen


class Step:
    def __init__(self, step):
        self.step = step


if __name__ == "__main__":
    folder, *lines, coordinator, count, index = sys.argv[1:]
    values = [flag.split("=", 1)[1] for flag in (coordinator, count, index)]
    group = ProcessGroup(values[0], int(values[1]), int(values[2]), 300)
    work(pathlib.Path(folder), lines, group)

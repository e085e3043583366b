"""Where the gain of conditioning on a mixture comes from: effects of its parts, seed by seed.

Of eight corners {k-means, EM} x {hard, soft responsibilities} x {table, mean embedding}, with two
controls: classes, and a partition at random into as many components.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import markdown
from gmm_diffusion.errors import InputError
from gmm_diffusion.report import comparisons
from gmm_diffusion.report.results import Result

# A field of `conditioning`, its level in labels made by k-means, and that in a mixture.
FACTORS = (
    ("fit", "k_means", "em"),
    ("responsibilities", "hard", "soft"),
    ("embedding", "table", "mean_embedding"),
)
CLASSES, RANDOM = "classes", "at random"
CORNERS = tuple(itertools.product((0, 1), repeat=len(FACTORS)))
CONDITIONS = (CLASSES, RANDOM, *CORNERS)
# The first is what the experiment asks; the others stand beside it.
METRICS = ("defect_rate", "agreement", "recall", "frechet")


def condition_of(settings: Mapping[str, object]) -> str | tuple[int, ...] | None:
    """Which of `CONDITIONS` a run is, from its settings by dotted name; None for another one."""
    if settings["conditioning.kind"] == "class":
        return CLASSES
    if settings["conditioning.kind"] != "gmm":
        return None
    if settings["conditioning.responsibilities"] == "random":
        return RANDOM
    levels = [(settings[f"conditioning.{field}"], own) for field, *own in FACTORS]
    if any(value not in own for value, own in levels):
        return None
    return tuple(own.index(value) for value, own in levels)


def collect(found: Sequence[Result], metric: str) -> tuple[list[int], dict, float]:
    """The values of a metric, of the training seeds that have a run of every condition.

    Args:
      found: of the sweep configs/sweeps/mixture_factors.py.
      metric: its name without a count.

    Returns:
      The seeds, condition -> `[seeds]`, and the floor.

    Raises:
      InputError: no seed has all of them.
    """
    values: dict = {condition: {} for condition in CONDITIONS}
    floors = []
    for result in found:
        names = [name for name in result.metrics if name.rpartition("_")[0] == metric]
        condition = condition_of(result.settings)
        if condition is not None and names:
            values[condition][result.seed] = result.metrics[names[0]]["value"]
            floors.append(result.metrics[names[0]]["floor"])
    seeds = sorted(set.intersection(*(set(of_seed) for of_seed in values.values())))
    if not seeds:
        counts = "; ".join(f"{len(v)} {name(condition)}" for condition, v in values.items())
        raise InputError(f"No seed has all conditions with a {metric}; runs so far: {counts}.")
    kept = {c: np.array([of_seed[seed] for seed in seeds]) for c, of_seed in values.items()}
    return seeds, kept, float(np.mean(floors))


def name(condition: str | tuple[int, ...]) -> str:
    """As it stands in a table."""
    if isinstance(condition, str):
        return condition
    words = {"k_means": "k-means", "em": "EM", "mean_embedding": "mean embedding"}
    levels = [own[level] for (_, *own), level in zip(FACTORS, condition, strict=True)]
    return ", ".join(words.get(level, level) for level in levels)


def effects(values: Mapping) -> dict[str, np.ndarray]:
    """Paired differences by name, each `[seeds]`.

    An effect of a part is the mean over corners that have it minus that over those that do not; of
    parts together (x), the mean over corners with an even number of them left out minus the rest,
    so that it is half of what one changes in the effect of the other.

    Args:
      values: condition -> `[seeds]`, as `collect` returns.
    """
    found = {
        "more labels: at random - classes": values[RANDOM] - values[CLASSES],
        "labels that mean something: k-means, hard, table - at random": values[0, 0, 0]
        - values[RANDOM],
    }
    titles = ("EM", "soft", "mean embedding")
    for size in range(1, len(FACTORS) + 1):
        for parts in itertools.combinations(range(len(FACTORS)), size):
            signs = [np.prod([1 if c[part] else -1 for part in parts]) for c in CORNERS]
            total = sum(sign * values[c] for sign, c in zip(signs, CORNERS, strict=True))
            found[" x ".join(titles[part] for part in parts)] = total / (len(CORNERS) / 2)
    return found


def tables(seeds: Sequence[int], values: Mapping, floor: float, metric: str) -> str:
    """Markdown: the metric of each condition, and what each part changes."""
    rows = [(name(condition), markdown.mean(values[condition])) for condition in CONDITIONS]
    reached = markdown.table(("conditioned on", metric), [*rows, ("held-out", f"{floor:.3f}")])
    compared = comparisons.compare({title: list(d) for title, d in effects(values).items()})
    rows = [(title, markdown.change(one)) for title, one in compared.items()]
    changed = markdown.table(("what is added", f"change of {metric}"), rows)
    count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return "\n\n".join([reached, changed, f"{count}. {comparisons.note(compared)}"])

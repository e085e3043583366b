"""The Markdown table of a report."""

from collections.abc import Mapping, Sequence

from gmm_diffusion.report import comparisons
from gmm_diffusion.report.summary import Group, Summary

NOTE = (
    "Values are means over training seeds ± half of Student's 95 % confidence interval, and in "
    "brackets real held-out data scored the same way."
)
ONE_SEED = (
    "Where there is one seed, the interval is over blocks of samples of that one model: it says "
    "how well it was measured, and nothing of other trainings; - is one block."
)


# Their floor is that of one step after another, which depends on the sampler.
COSTS = ("rounds", "evaluations")
COST = "In brackets behind {} is what the same sampler takes one step after another."
UNEVEN = (
    "The floor of {} is not the same in every row: other data, another split, or judges that were "
    "trained apart (evaluation.judge_dir shares them)."
)
DIFFERENCES = (
    "Values are differences from the runs with {}, seed by seed: means ± half of Student's 95 % "
    "confidence interval, and in brackets that of the floors."
)


def short_names(fields: list[str]) -> list[str]:
    """The last parts of dotted names, or the whole names where those are not unique."""
    last = [field.split(".")[-1] for field in fields]
    return [
        name if last.count(name) == 1 else field for field, name in zip(fields, last, strict=True)
    ]


def show(value: object) -> str:
    """A setting's value as text."""
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(str, value)) + ")"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.10g}" if is_number else str(value) or '""'


def cell(summary: Summary | None, differs: bool = False) -> str:
    """`0.983 ± 0.004 (0.986)`, with a star behind what differs by more than chance."""
    if summary is None:
        return "-"
    half = "-" if summary.half is None else f"{summary.half:.2g}"
    return f"{summary.mean:.4g} ± {half} ({summary.floor:.4g})" + (" \\*" if differs else "")


def markdown(
    groups: list[Group],
    fields: list[str],
    metrics: list[str],
    left_out: Sequence[str] = (),
    against: Mapping[str, str] | None = None,
) -> str:
    """One row a group: its settings, the number of seeds, the metrics.

    Settings that are `left_out`, as they follow from the kind of their group, are named below, and
    so are those of the runs that the values are differences from, with how many differences there
    are and which of them are more than chance when all are counted. So are metrics whose floor is
    not the same in every row.
    """
    shown = {(i, m): g.metrics[m] for i, g in enumerate(groups) for m in metrics if m in g.metrics}
    found = comparisons.compare({k: s.values for k, s in shown.items()}) if against else {}
    stars = {key for key, comparison in found.items() if comparison.differs}
    rows = [[*short_names(fields), "seeds", *metrics]]
    rows.append(["---"] * len(rows[0]))
    for i, group in enumerate(groups):
        present = [group.metrics[name] for name in metrics if name in group.metrics]
        seeds = max((summary.seeds for summary in present), default=0)
        cells = [cell(group.metrics.get(name), (i, name) in stars) for name in metrics]
        rows.append([*map(show, group.key), str(seeds), *cells])
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    one_seed = any(g.metrics[m].seeds < 2 for g in groups for m in metrics if m in g.metrics)
    baseline = ", ".join(f"{field}={value}" for field, value in (against or {}).items())
    notes = [DIFFERENCES.format(baseline) if baseline else NOTE, *([ONE_SEED] if one_seed else [])]
    if found:
        notes.append(comparisons.note(found))
    scored = [name for name in metrics if name not in COSTS]
    floors = {m: {s.floor for (_, name), s in shown.items() if name == m} for m in scored}
    uneven = [m for m, values in floors.items() if values and max(values) - min(values) > 1e-9]
    if uneven and not against:
        notes.append(UNEVEN.format(", ".join(uneven)))
    if costs := [name for name in metrics if name in COSTS and not against]:
        notes.append(COST.format(" and ".join(costs)))
    if left_out:
        notes.append(f"Differ with the kind of their group alone: {', '.join(left_out)}.")
    return "\n".join([*lines, "", *notes])

"""The Markdown table of a report."""

from collections.abc import Mapping, Sequence

from gmm_diffusion.report.summary import Group, Summary

NOTE = (
    "Values are means over training seeds ± half of Student's 95 % confidence interval, and in "
    "brackets real held-out data scored the same way."
)
ONE_SEED = (
    "Where there is one seed, the interval is over blocks of samples of that one model: it says "
    "how well it was measured, and nothing of other trainings; - is one block."
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


def cell(summary: Summary | None) -> str:
    """`0.983 ± 0.004 (0.986)`."""
    if summary is None:
        return "-"
    half = "-" if summary.half is None else f"{summary.half:.2g}"
    return f"{summary.mean:.4g} ± {half} ({summary.floor:.4g})"


def markdown(
    groups: list[Group],
    fields: list[str],
    metrics: list[str],
    left_out: Sequence[str] = (),
    against: Mapping[str, str] | None = None,
) -> str:
    """One row a group: its settings, the number of seeds, the metrics.

    Settings that are `left_out`, as they follow from the kind of their group, are named below, and
    so are those of the runs that the values are differences from.
    """
    rows = [[*short_names(fields), "seeds", *metrics]]
    rows.append(["---"] * len(rows[0]))
    for group in groups:
        present = [group.metrics[name] for name in metrics if name in group.metrics]
        seeds = max((summary.seeds for summary in present), default=0)
        cells = [cell(group.metrics.get(name)) for name in metrics]
        rows.append([*map(show, group.key), str(seeds), *cells])
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    one_seed = any(g.metrics[m].seeds < 2 for g in groups for m in metrics if m in g.metrics)
    baseline = ", ".join(f"{field}={value}" for field, value in (against or {}).items())
    notes = [DIFFERENCES.format(baseline) if baseline else NOTE, *([ONE_SEED] if one_seed else [])]
    if left_out:
        notes.append(f"Differ with the kind of their group alone: {', '.join(left_out)}.")
    return "\n".join([*lines, "", *notes])

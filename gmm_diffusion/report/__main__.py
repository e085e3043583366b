"""The command line: `python -m gmm_diffusion.report DIR... [options]`.

Finds every finished evaluation below the directories, averages over training seeds, prints a
Markdown table with confidence intervals, and writes it with pictures to a directory.

  --metric NAME ...       these only; a name may leave out its count: frechet for frechet_360
  --by FIELD ...          what tells the rows apart; default: all settings that differ, but those
                          that follow from the kind of their group
  --x FIELD               curves of each metric against this setting, a line for each other setting
  --heatmap FIELD FIELD   each metric over two settings, a panel for each other setting
  --where FIELD=VALUE ... only the runs with these settings
  --against FIELD=VALUE ...  differences from the runs with these settings, seed by seed
  --out DIR               of report.md and the pictures; default: report in the first DIR

Without --x and --heatmap the pictures are bars. Runs that a sweep has given to a cluster, and that
are not done, are named with their state and their log. Exit status: 0 done, 1 failed, 2 bad input.
"""

import difflib
import sys

from gmm_diffusion import command_line, paths, signals
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError
from gmm_diffusion.report import results


def run(argv: list[str]) -> int:
    """One command, without the program's name; returns the exit status."""
    return command_line.run(argv, __file__, lambda argv: _report(_parse(argv)))


def _report(arguments):
    # Imported late: a Ctrl-C meanwhile ends the command without a traceback.
    with signals.importing():
        from matplotlib import rc_context

        from gmm_diffusion.report import plots, summary, table

    found, skipped = results.find(arguments.directories)
    found = results.where(found, arguments.where)
    if arguments.against:
        found = results.against(found, arguments.against)
    metrics = choose_metrics(arguments.metric, found)
    axes = arguments.heatmap or ([arguments.x] if arguments.x else [])
    differing = results.varying(found)
    rows, left_out = arguments.by, []
    if rows is None:
        left_out = [f for f in results.implied(found, differing) if f not in axes]
        rows = [field for field in differing if field not in left_out]
    fields = list(dict.fromkeys([*rows, *axes]))
    groups = summary.group(found, fields, [field for field in differing if field not in fields])
    out = paths.folder(arguments.out or f"{arguments.directories[0]}/report", "--out", bucket=True)
    text = table.markdown(groups, fields, metrics, left_out, arguments.against)
    with paths.replacing(out / "report.md") as temporary:
        # Names from a file system may hold what no encoding has.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    files = [out / "report.md"]
    for metric in metrics:
        having = [group for group in groups if metric in group.metrics]
        files.append(out / f"{_kind(arguments)}_{metric}.png")
        # A dollar in a setting is no mathematics.
        plain = rc_context({"text.parse_math": False})
        with plain, paths.replacing(files[-1]) as temporary:
            if arguments.heatmap:
                figure = plots.heatmap(having, fields, metric, arguments.heatmap)
            elif arguments.x:
                figure = plots.curves(having, fields, metric, arguments.x, bool(arguments.against))
            else:
                figure = plots.bars(having, fields, metric, bool(arguments.against))
            plots.save(figure, temporary)
    print(text)
    for line in skipped:
        print(line, file=sys.stderr)
    print("\nFiles:\n" + "\n".join(f"  {file}" for file in files))


def _kind(arguments):
    if arguments.heatmap:
        return "heatmap"
    return "curves" if arguments.x else "bars"


def choose_metrics(names: list[str] | None, found: list[results.Result]) -> list[str]:
    """The metrics that `names` ask for, with or without their count; all without names.

    Raises:
      InputError: a name that no result has, with the nearest one that it has.
    """
    known = list(dict.fromkeys(name for result in found for name in result.metrics))
    if not names:
        return known
    chosen = []
    for name in names:
        matching = [m for m in known if m == name or m.rpartition("_")[0] == name]
        if not matching:
            without = [m.rpartition("_")[0] for m in known]
            near = difflib.get_close_matches(name, [*known, *without], 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            raise InputError(f"--metric {name} is no metric of these runs; {hint}")
        chosen.extend(matching)
    return list(dict.fromkeys(chosen))


def _parse(argv):
    parser = command_line.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("directories", nargs="*")
    parser.add_argument("--metric", nargs="+")
    parser.add_argument("--by", nargs="+")
    parser.add_argument("--x")
    parser.add_argument("--heatmap", nargs=2)
    parser.add_argument("--where", nargs="+", default=[])
    parser.add_argument("--against", nargs="+", default=[])
    parser.add_argument("--out")
    arguments = parser.parse_args(argv)
    if not arguments.directories:
        raise InputError("DIR is missing; it must name a directory of runs.")
    if arguments.x and arguments.heatmap:
        raise InputError("--x and --heatmap are two kinds of pictures; use one at a time.")
    axes = [*(arguments.heatmap or []), *([arguments.x] if arguments.x else [])]
    for field in [*(arguments.by or []), *axes]:
        config_lib.check_name(field)
    if len(set(axes)) < len(axes):
        raise InputError(f"--heatmap has {axes[0]} twice; it must have two settings.")
    for name in ("where", "against"):
        texts = getattr(arguments, name)
        for text in texts:
            if "=" not in text:
                raise InputError(f"--{name} is {text!r}; it must be FIELD=VALUE.")
        setattr(arguments, name, dict(text.split("=", 1) for text in texts))
    return arguments


def main() -> None:
    """The command `gmm-diffusion-report`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

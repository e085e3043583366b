"""Extension of griffe: tables in the docstrings of modules, which a terminal shows, too."""

import griffe


class Tables(griffe.Extension):
    """Shows an indented paragraph of a module's docstring as it is written."""

    def on_module_instance(self, *, mod, **kwargs):
        """Indents it as Markdown wants code."""
        if mod.docstring is None:
            return
        paragraphs = mod.docstring.value.split("\n\n")
        mod.docstring.value = "\n\n".join(
            "    " + p.replace("\n", "\n    ") if p.startswith("  ") else p for p in paragraphs
        )

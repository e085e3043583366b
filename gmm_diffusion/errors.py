"""The two ways in which a run ends other than well."""


class InputError(ValueError):
    """Bad input: one sentence that names the field, its value and what is valid. Exit status 2."""


class RunError(RuntimeError):
    """The run itself failed, for example on a non-finite loss. Exit status 1."""

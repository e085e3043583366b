"""The two ways in which a run ends other than well."""

# Of a message. What is left out of a longer one is its middle: a value that it quotes.
_MOST = 2000


class InputError(ValueError):
    """Bad input: one sentence that names the field, its value and what is valid. Exit status 2.

    Long values are cut, and bytes that are no text are escaped, so that any stream can print it.
    """

    def __init__(self, message: str):
        super().__init__(printable(_cut(str(message))))


class RunError(RuntimeError):
    """The run itself failed, for example on a non-finite loss. Exit status 1."""


def printable(text: str) -> str:
    """`text` with what no stream can encode, such as some files' names have, as `\\udcf1`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cut(text):
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST // 2]} [{len(text) - _MOST} characters] {text[-_MOST // 2 :]}"

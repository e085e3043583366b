"""The configs that come with the package, by name: `tiny` is configs/tiny.py."""

import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent


def folder() -> pathlib.Path:
    """Where they are: in a checkout beside the package, in a wheel inside of it."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """All of them, sorted."""
    return sorted(path.stem for path in folder().glob("*.py"))

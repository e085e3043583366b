"""The list of slow tests: how it is chosen, and that it names tests that there are."""

import ast
import importlib.util
import pathlib

import pytest

TESTS = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def slow_tests():
    path = TESTS.parent / "launch" / "slow_tests.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, *cases):
    rows = "".join(
        f'<testcase classname="{file}" name="{name}" time="{seconds}"/>'
        for file, name, seconds in cases
    )
    path.write_text(f'<testsuites><testsuite name="pytest">{rows}</testsuite></testsuites>')
    return str(path)


def test_times_of_all_parameters_and_the_longest_of_runs(slow_tests, tmp_path):
    loop, em = "tests.training.test_loop", "tests.mixture.test_em"
    first = write(tmp_path / "a", (loop, "test_a", 9), (em, "test_b[1]", 2), (em, "test_b[2]", 3))
    second = write(tmp_path / "b", (em, "test_b[1]", 1), (em, "test_c", 7))
    assert slow_tests.durations([first, second]) == {
        "training/test_loop.py::test_a": 9,
        "mixture/test_em.py::test_b": 5,
        "mixture/test_em.py::test_c": 7,
    }


def test_the_fewest_tests_are_left_out(slow_tests):
    seconds = {"d": 1, "a": 40, "c": 2, "b": 30}
    assert slow_tests.slow(seconds, 80) == []
    assert slow_tests.slow(seconds, 33) == ["a"]
    assert slow_tests.slow(seconds, 32) == ["a", "b"]


def test_what_is_listed_is_a_test():
    names = (TESTS / "slow.txt").read_text().split()
    assert len(set(names)) == len(names)
    for name in names:
        file, _, test = name.partition("::")
        assert (TESTS / file).is_file(), f"{name}: no such file"
        tree = ast.parse((TESTS / file).read_text())
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in found, f"{name}: no such test"


def test_the_mark_is_on_what_is_listed(request):
    listed = set((TESTS / "slow.txt").read_text().split())
    for item in request.session.items:
        name = f"{item.path.relative_to(TESTS).as_posix()}::{item.originalname}"
        assert (item.get_closest_marker("slow") is not None) == (name in listed)

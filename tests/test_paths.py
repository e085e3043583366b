"""Paths that people type: homes, relative ones, and what no file can be called."""

import os
import pathlib

import pytest

from gmm_diffusion import command_line, paths
from gmm_diffusion import config as config_lib
from gmm_diffusion.errors import InputError, RunError
from gmm_diffusion.runs import workdir


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "me"


def test_homes(home, monkeypatch):
    assert paths.expand("~/x/y", "--workdir") == home / "x" / "y"
    assert paths.expand("~", "--workdir") == home
    assert paths.expand("~root/x", "--workdir") == pathlib.Path("/root/x")
    assert paths.expand("./~/x", "--workdir") == pathlib.Path("~/x")
    assert paths.expand("a/~", "--workdir") == pathlib.Path("a/~")
    with pytest.raises(InputError, match=r"--workdir is '~nobody_here/x'.*user nobody_here"):
        paths.expand("~nobody_here/x", "--workdir")
    # As the system answers for a process without HOME whose number has no entry.
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)
    with pytest.raises(InputError, match="no home directory of this user, and HOME is not set"):
        paths.expand("~/x", "--workdir")


@pytest.mark.parametrize("field", config_lib.PATH_FIELDS)
def test_every_path_of_a_config_means_the_same_from_any_directory(field, home):
    config = config_lib.default()
    group, name = field.split(".")
    for text, expected in (
        ("~/x", home / "x"),
        ("a/../b/", home.parent / "a" / ".." / "b"),
        ("/x", pathlib.Path("/x")),
    ):
        config[group][name] = text
        assert config_lib.with_paths(config)[group][name] == str(expected)
        assert config[group][name] == text
    config[group][name] = "x" * 256
    with pytest.raises(InputError, match=f"^{field} is 'x{{150}}.*256 bytes; it must have at most"):
        config_lib.with_paths(config)


def test_the_other_paths_of_a_config(home):
    config = config_lib.default()
    assert config_lib.with_paths(config) == config
    config.evaluation.features, config.evaluation.judge_dir = "file:a:b", ".."
    made = config_lib.with_paths(config).evaluation
    # A judge's folder is relative to the run.
    assert (made.features, made.judge_dir) == (f"file:{home.parent}/a:b", "..")
    config.evaluation.features, config.evaluation.judge_dir = "file:~/x", "~/judges"
    made = config_lib.with_paths(config).evaluation
    assert (made.features, made.judge_dir) == (f"file:{home}/x", str(home / "judges"))


def test_every_field_with_a_place_is_known():
    named = [f for f in config_lib.fields(config_lib.default()) if f.endswith(("dir", "from"))]
    named += [f for f in config_lib.fields(config_lib.default()) if f.endswith((".guide", "kdir"))]
    assert {*named} <= {*config_lib.PATH_FIELDS, "evaluation.judge_dir"}


def test_flags_and_config_files_are_alike(home):
    (home / "c.py").write_text(
        "from gmm_diffusion import config\n\n"
        "def get_config():\n"
        "    c = config.default()\n"
        "    c.data.data_dir, c.guidance.guide = 'images', '~/guide'\n"
        "    return c\n"
    )
    line = ["main", "--config=~/c.py", "--config.ngmg.workdir=runs/a"]
    parsed = command_line.parse(line, lambda values: None)
    assert parsed.config.data.data_dir == str(home.parent / "images")
    assert parsed.config.guidance.guide == str(home / "guide")
    assert parsed.config.ngmg.workdir == str(home.parent / "runs" / "a")
    assert parsed.overrides == {"ngmg.workdir": str(home.parent / "runs" / "a")}


def test_what_is_stored_is_absolute(home):
    config = config_lib.default()
    config.guidance.guide = "runs/guide"
    made = workdir.as_written(config, "run")
    workdir.write_config(made, "run")
    assert workdir.read_config("run").guidance.guide == str(home.parent / "runs" / "guide")
    # Runs of earlier versions stored what was typed, and go on.
    config.ngmg.workdir = "runs/classifier"
    workdir.write_config(config, "old")
    config.ngmg.workdir = str(home.parent / "runs" / "classifier")
    assert workdir.check(config, "old")
    config.ngmg.workdir = "runs/another"
    with pytest.raises(InputError, match=r"ngmg\.workdir"):
        workdir.check(config, "old")


def odd_places(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    return {
        "file": "which is a file; it must be a directory",
        "file/below": "of which a part is a file",
        "dangling": "a link to nowhere, where there is nothing",
        "loop": "links go round in a circle",
        "y" * 256: "with a name of 256 bytes",
        "é" * 128: "with a name of 256 bytes",
        "new/" + "y" * 300 + "/run": "with a name of 300 bytes",
        "a/" * 2500: "which is too long for the file system",
        "zero\0": "must not hold a zero byte",
    }


def test_folders_that_cannot_be_used(tmp_path):
    for text, message in odd_places(tmp_path).items():
        with pytest.raises(InputError) as caught:
            paths.folder(tmp_path / text, "--workdir")
        sentence = str(caught.value)
        assert sentence.startswith("--workdir is "), sentence
        assert message in sentence
        assert sentence.endswith(".")
        assert len(sentence) < 800
        assert "\n" not in sentence
    for text in ("folder", "new", "new/deep"):
        assert paths.folder(tmp_path / text, "--workdir") == tmp_path / text
    with pytest.raises(InputError, match="which is no folder; it must be the folder of images"):
        paths.folder(tmp_path / "new", "data.data_dir", exists="the folder of images")


def test_files_that_cannot_be_used(tmp_path):
    for text, message in odd_places(tmp_path).items():
        if text != "file":
            with pytest.raises(InputError) as caught:
                paths.file(tmp_path / text, "--out")
            assert message in str(caught.value)
    assert paths.file(tmp_path / "file", "--out") == tmp_path / "file"
    assert paths.file(tmp_path / "new", "--out") == tmp_path / "new"
    with pytest.raises(InputError, match="not a file but a directory"):
        paths.file(tmp_path / "folder", "--out")
    with pytest.raises(InputError, match="a file in a directory that exists"):
        paths.file(tmp_path / "absent" / "new", "--out")


def test_places_without_permission(tmp_path, monkeypatch):
    """Root may read everything, so the system's answer is put in its place."""

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "stat", refuse)
    for check in (paths.folder, paths.file):
        with pytest.raises(InputError, match=r"may not be read \(permission denied\)"):
            check(tmp_path / "x", "--workdir")


def test_writing_is_tried(tmp_path):
    paths.check_writable(tmp_path / "new" / "file")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, cause in (("file/x", "[Nn]ot a directory|File exists"), ("folder", "Is a directory")):
        with pytest.raises(RunError, match=f"{tmp_path / path} cannot be written: ({cause})"):
            paths.check_writable(tmp_path / path)
    # A file system that takes nothing, for root either.
    with pytest.raises(RunError, match="/proc/x cannot be written"):
        paths.check_writable(pathlib.Path("/proc/x"))


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    with paths.replacing(path) as temporary:
        temporary.write_text("old")

    def half():
        with paths.replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="cannot be written: No space left"):
        half()
    assert path.read_text() == "old"


def test_the_compilation_cache(home, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert command_line.compilation_cache() == home / ".cache" / "gmm_diffusion"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/c")
    assert command_line.compilation_cache() == home / "c" / "gmm_diffusion"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~/d")
    assert command_line.compilation_cache() == home / "d"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert command_line.compilation_cache() is None
    # No home at all: no cache, and no folder named ~.
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)
    assert command_line.compilation_cache() is None


def test_a_run_holds_what_it_should(tmp_path):
    for part in ("checkpoints", "samples", "snapshots"):
        (tmp_path / part).touch()
        with pytest.raises(InputError, match=f"holds a file {part} where a run has a folder"):
            workdir.directory(tmp_path)
        (tmp_path / part).unlink()
    for part in ("evaluation.json", "metrics.jsonl"):
        (tmp_path / part).mkdir()
        with pytest.raises(InputError, match=f"holds a folder {part} where a run has a file"):
            workdir.directory(tmp_path)
        (tmp_path / part).rmdir()
    # What os.fsdecode makes of a name in UTF-8 where the encoding of names is ASCII.
    with pytest.raises(InputError, match="set PYTHONUTF8=1"):
        workdir.directory(tmp_path / "r\udcc3\udcbcn")
    assert workdir.directory(tmp_path / "rün") == tmp_path / "rün"

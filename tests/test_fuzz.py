"""Anything at all as input: a sentence, or a value that the rest of the program can use.

FUZZ_EXAMPLES=20000 tries so many of each, other ones every time; the gate tries the same few.
"""

import datetime
import gzip
import io
import json
import math
import os
import re
import tarfile
import types

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from gmm_diffusion import assembly, attribute_names, command_line
from gmm_diffusion import config as config_lib
from gmm_diffusion.assembly import datasets
from gmm_diffusion.conditioning import requests
from gmm_diffusion.data import attribute_table, cifar_archive, image_folder
from gmm_diffusion.diffusion import noise_levels
from gmm_diffusion.errors import InputError
from gmm_diffusion.metrics import frechet, judge
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.report import __main__ as report
from gmm_diffusion.report import results
from gmm_diffusion.runs import snapshots, workdir
from gmm_diffusion.runs.param_files import export_params, load_params
from gmm_diffusion.sampling import samplers
from gmm_diffusion.sweep import assignments

WANTED = int(os.environ.get("FUZZ_EXAMPLES", "0"))
DEFAULT = config_lib.default()
FIELDS = sorted(config_lib.fields(DEFAULT))


def fuzz(in_the_gate):
    """Settings of a test; 10 seconds for one example are a hang."""
    return settings(
        max_examples=WANTED or in_the_gate,
        deadline=datetime.timedelta(seconds=10),
        derandomize=not WANTED,
        database=None,
        # Making an example shorter takes minutes, and the gate has none.
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if WANTED else [])],
        suppress_health_check=list(HealthCheck),
    )


def refused(error, match=""):
    text = str(error)
    assert re.search(match, text)
    assert len(text) < 2200
    assert text.encode("utf-8").decode().isprintable(), text
    assert text.endswith((".", "?")), text


TEXT = st.text(max_size=20) | st.text("0123456789.eE+-_,;:=()[]{}'\"*ainftrue \n\\$~/", max_size=20)
NUMBERS = (
    st.integers()
    | st.integers(-2, 70_000)
    | st.floats()
    | st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**63, 10**400, 1e30, 1e300, math.inf, math.nan])
)
VALUES = (
    NUMBERS | TEXT | st.booleans() | st.none() | st.lists(NUMBERS | TEXT, max_size=4).map(tuple)
)
CHOICES = st.sampled_from(
    ["unet", "mlp", "toy", "digits", "faces", "none", "class", "attributes", "auto", "mixture"]
)  # fmt: skip
LONG = st.builds(lambda unit, n: unit * n, TEXT, st.integers(0, 3000))


def accepted(config):
    """What every valid config promises to the rest of the program."""
    stored = json.loads(config.to_json_best_effort())
    again = config_lib.from_dict(json.loads(json.dumps(stored)))
    assert not config_lib.differences(config, again)
    config_lib.validate(again)
    group = config.sample
    # A highest level of 0 is known once the data are.
    highest = group.sigma_max or config_lib.SIGMA_MAX
    sigmas = np.asarray(noise_levels.karras(group.steps, group.sigma_min, highest, group.rho))
    levels = samplers.SAMPLERS[config.sample.sampler].levels(sigmas)
    assert np.isfinite(levels).all()
    assert (np.asarray(levels) >= 0).all()
    try:
        requests.parse(config.sample.condition)
    except InputError as error:
        refused(error)


FLAGS = st.one_of(
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["--config.", "--config.", "-config.", "--noconfig."]),
        st.sampled_from(FIELDS),
        VALUES | CHOICES | LONG,
    ),
    st.builds("--config.{}={}".format, TEXT, VALUES),
    st.builds("--{}config.{}".format, st.sampled_from(["", "no"]), st.sampled_from(FIELDS)),
    TEXT.filter(lambda text: "flagfile" not in text),
)


@fuzz(150)
@given(st.lists(FLAGS, max_size=4))
@example(["--noconfig.data.flip=true"])
@example(["--config.=1"])
@example(["--config.training.num_steps=" + "9" * 400])
@example(["--config.training.num_steps=" + "9" * 5000])
@example(["--config.network.channel_mult=" + "(" * 5000])
@example(["--config.sample.steps=2147483647"])
@example(["--config.sample.condition=" + "x" * 100_000])
@example(["--config.network.name=" + "x" * 100_000])
@example(["--config.a\nb=1"])
@example(["--noconfig.checkpoint.every=" + "0\x1f\U00011d8f\U00018d09\U00018d09" * 60])
def test_flags(flags):
    try:
        config = command_line.parse(["program", *flags], lambda values: None).config
        config_lib.validate(config)
    except InputError as error:
        refused(error)
        return
    accepted(config)


@fuzz(150)
@given(
    st.sampled_from(FIELDS),
    VALUES.map(repr) | st.dictionaries(TEXT, NUMBERS, max_size=2).map(repr) | TEXT,
    st.sampled_from(["config", "FrozenConfigDict(config)", "3", "sys.exit(3)", "ConfigDict()"]),
)
@example("data.flip", "True", "FrozenConfigDict(config)")
@example("data.flip", "True", "sys.exit(0)")
def test_config_files(tmp_path_factory, field, value, returned):
    path = tmp_path_factory.getbasetemp() / "fuzzed.py"
    path.write_text(
        "import sys\nfrom math import inf, nan\nfrom ml_collections import *\n"
        "from gmm_diffusion import config as lib\n\ndef get_config():\n"
        f"    config = lib.default()\n    config.{field} = {value}\n    return {returned}\n",
        errors="replace",
    )
    try:
        flags = ["program", f"--config={path}", "--config.sample.steps=3"]
        config = command_line.parse(flags, lambda values: None).config
        config_lib.validate(config)
    except InputError as error:
        refused(error)
        return
    assert config.sample.steps == 3
    accepted(config)


@pytest.fixture(scope="module")
def digits():
    return datasets.dataset(config_lib.default())


NETWORKS = {
    "network.channels": st.integers(0, 300) | st.just(8193),
    "network.channel_mult": st.lists(st.integers(0, 5), max_size=5).map(tuple),
    "network.num_blocks": st.integers(0, 3),
    "network.attention_resolutions": st.lists(st.integers(0, 9), max_size=3).map(tuple),
    "network.head_channels": st.integers(1, 300) | st.sampled_from([0, 16_384]),
    "network.dropout": st.floats(0, 1),
    "network.dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
    "network.log_variance_features": st.integers(0, 9),
}


@fuzz(25)
@given(st.fixed_dictionaries({}, optional=NETWORKS))
def test_networks_of_accepted_configs_can_be_built(digits, chosen):
    config = config_lib.default()
    config.conditioning.kind = "none"
    for field, value in chosen.items():
        group, name = field.split(".")
        config[group][name] = value
    try:
        config_lib.validate(config)
        datasets._check_fit(config, digits)
    except InputError as error:
        refused(error)
        return
    fitted = types.SimpleNamespace(conditioner=None, spec=FittedStatistics)
    jax.eval_shape(lambda: assembly.init_params(config, digits.shape, fitted))


PIECES = st.lists(
    st.sampled_from(
        ["train", "class:", "component:", "class:1=0.5", "class:2=0.5", "0.5*", "+", "=", ",", "1",
         "like:", "features:", "0", "Wearing Hat", "Bald=1", " ", "*", "1e999", "9" * 400, "nan",
         ".", "-"]
    )
    | TEXT,
    max_size=8,
).map("".join)  # fmt: skip


@fuzz(400)
@given(PIECES)
@example("9" * 5000)
@example("1e999*class:1+-1e999*class:2")
def test_conditions(text):
    try:
        terms = requests.parse(text)
        if not isinstance(terms, requests.Attributes):
            requests.check(terms, 3, 4)
            assert not terms or abs(sum(term.share for term in terms) - 1) < 1e-5
            return
        asked = attribute_names.parse(terms.text, ("Wearing Hat", "Bald"))
        assert set(asked) <= {"Wearing Hat", "Bald"}
        assert set(asked.values()) <= {0, 1}
    except InputError as error:
        refused(error)


@fuzz(300)
@given(
    st.lists(st.lists(TEXT | st.sampled_from(["1", "0", "-1", "a.png"]), max_size=4), max_size=4),
       st.sampled_from([",", ";", "\t", " "]), st.booleans())  # fmt: skip
def test_tables(tmp_path_factory, rows, separator, of_celeba):
    path = tmp_path_factory.getbasetemp() / ("fuzzed.txt" if of_celeba else "fuzzed.CSV")
    path.write_text("\n".join(map(separator.join, rows)), errors="replace", newline="")
    check_table(path)


@fuzz(200)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
def test_names_that_a_table_may_have_can_be_asked_for(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "named.csv"
    quoted = ['"' + name.replace('"', '""') + '"' for name in ("file", *names)]
    path.write_text(",".join(quoted) + "\na.png" + ",1" * len(names), errors="replace", newline="")
    check_table(path)


def check_table(path):
    try:
        names, rows = attribute_table.read(path)
    except InputError as error:
        refused(error)
        return
    assert all(row.shape == (len(names),) and row.max(initial=0) <= 1 for row in rows.values())
    asked = ",".join(f"{name}=1" for name in names)
    assert attribute_names.parse(requests.parse(asked).text, names) == dict.fromkeys(names, 1)


def damaged(content):
    """Strategies for `content` with bytes changed, left out, put in, or cut off."""
    place = st.integers(0, len(content) - 1) | st.integers(0, min(60, len(content) - 1))
    change = st.tuples(place, st.binary(max_size=6), st.integers(0, 6))

    def apply(changes):
        made = bytearray(content)
        for start, new, left_out in changes:
            made[start : start + left_out] = new
        return bytes(made)

    cut = place.map(lambda end: content[:end])
    return st.lists(change, min_size=1, max_size=3).map(apply) | cut


def picture(form):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format=form)
    return stream.getvalue()


@fuzz(250)
@given(st.sampled_from(["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"]).flatmap(
    lambda form: damaged(picture(form))))  # fmt: skip
def test_images(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "pictures"
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(content)
    try:
        data = image_folder.load(str(folder), heldout_fraction=0.5, resolution=4)
    except InputError as error:
        refused(error, r"[ab]\.png")
        return
    assert data.shape in ((4, 4, 1), (4, 4, 3))


PARAMS = {"network": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "gain": np.float32(2)}
MADE = judge.Judge(
    {"network": PARAMS}, {"shape": [2]}, 0.5, judge.parameter_hash({"network": PARAMS})
)


def file_of(tmp_path_factory, writer, name="file.npz"):
    path = tmp_path_factory.getbasetemp() / name
    writer(path)
    return path.read_bytes()


def check_params(path):
    made = load_params(path)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(made))


def check_snapshots(path):
    folder = path.parent / "snapshots"
    folder.mkdir(exist_ok=True)
    os.replace(path, folder / "width_0.05_step_8.npz")
    snapshots.reconstruct(folder, None, 0.05)


NPZ = {
    "params": (lambda path: export_params(PARAMS, path), check_params),
    "snapshots": (lambda path: export_params(PARAMS, path), check_snapshots),
    "judge": (lambda path: judge.save([MADE], path), judge.load),
    "statistics": (
        lambda path: frechet.save(frechet.statistics(np.eye(3), "pca"), path),
        lambda path: frechet.distance(frechet.load(path), frechet.load(path)),
    ),
}


@pytest.mark.parametrize("kind", NPZ)
def test_damaged_npz(kind, tmp_path_factory):
    write, check = NPZ[kind]
    path = tmp_path_factory.getbasetemp() / f"{kind}.npz"
    write(path)
    check(path)

    @fuzz(120)
    @given(damaged(file_of(tmp_path_factory, write)))
    def run(content):
        path.write_bytes(content)
        try:
            check(path)
        except InputError as error:
            refused(error)

    run()


JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS.filter(lambda n: n == n) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def replaced(tree):
    """Strategies for `tree`, nested dicts, with something else at one place."""
    deeper = [
        st.builds(lambda new, k=key: {**tree, k: new}, replaced(value))
        for key, value in (tree.items() if isinstance(tree, dict) else ())
    ]
    other = st.builds(lambda key, new: {**tree, key: new}, TEXT, JSON) if deeper else JSON
    missing = (
        [st.just({k: v for k, v in tree.items() if k != key}) for key in tree][:1] if deeper else []
    )
    return st.one_of(JSON, other, *missing, *deeper)


STORED = json.loads(DEFAULT.to_json_best_effort())
DEEP = "[" * 100_000


@fuzz(250)
@given(replaced(STORED).map(json.dumps) | damaged(json.dumps(STORED).encode()).map(bytes))
@example(DEEP)
@example(json.dumps(STORED).replace("18", "9" * 5000))
@example(json.dumps(STORED).replace('"steps": 18', '"steps": 1' + "0" * 400))
def test_config_json(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "run"
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    try:
        config = workdir.read_config(folder)
        assert isinstance(config, ConfigDict)
        config_lib.validate(config)
    except InputError as error:
        refused(error)
        return
    accepted(config)


METRIC = {"value": 1.0, "blocks": [1.0, 2.0], "floor": 0.5}
EVALUATION = {
    "step": 1,
    "metrics": {"frechet_360": METRIC, "rounds": METRIC},
    "settings": config_lib.sampling_fields(DEFAULT),
    "cost": {"rounds": 2, "evaluations": 35, "sequential_evaluations": 35},
}


def write_run(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_config(DEFAULT, folder)
    text = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    (folder / "evaluation.json").write_bytes(text)


EVALUATIONS = replaced(EVALUATION).map(json.dumps) | damaged(json.dumps(EVALUATION).encode())


def reported(folder):
    found, skipped = results.find([str(folder)])
    assert len(found) + len(skipped) == 2
    assert all(line.startswith("Skipped ") and line.isprintable() for line in skipped)
    return found


@fuzz(250)
@given(EVALUATIONS)
@example(DEEP)
@example("[" + "9" * 5000 + "]")
@example(json.dumps(EVALUATION | {"metrics": {"../../elsewhere": METRIC}}))
def test_evaluations(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "evaluations_fuzzed"
    write_run(folder / "good", json.dumps(EVALUATION))
    write_run(folder / "bad", content)
    for result in reported(folder):
        assert all(np.isfinite(m["value"]) for m in result.metrics.values())


@fuzz(12)
@given(EVALUATIONS)
@example(json.dumps(EVALUATION | {"settings": EVALUATION["settings"] | {"guidance.guide": "$x_{"}}))
def test_reports(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "reports_fuzzed"
    write_run(folder / "good", json.dumps(EVALUATION))
    write_run(folder / "bad", content)
    assert report.run([str(folder), f"--out={folder / 'out'}", "--metric", "frechet_360"]) == 0
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "bars_frechet_360.png",
        "report.md",
    ]


@fuzz(400)
@given(
    st.builds("{}={}".format, st.sampled_from(FIELDS), VALUES | st.lists(VALUES).map(repr) | LONG)
    | TEXT
)
@example("sample.condition=" + "," * 100_000)
@example("network.channel_mult=" + "(" * 100_000)
@example("network.channel_mult=" + "," * 100_000)
def test_assignments_of_sweeps(text):
    try:
        field, values = assignments.parse(text)
    except InputError as error:
        refused(error)
        return
    usual = config_lib.fields(DEFAULT)[field]
    assert values
    assert all(isinstance(v, str | type(usual)) for v in values)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        entry = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        entry.size = 3073
        packed.addfile(entry, io.BytesIO(bytes(3073)))
    return stream.getvalue()[: 3 * 512 + 3073]


def test_archives(archive, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar.gz"

    @fuzz(150)
    @given(damaged(archive))
    def run(content):
        path.write_bytes(gzip.compress(content, 1))
        with pytest.raises(InputError) as caught:
            cifar_archive.load(str(path))
        refused(caught.value)

    run()

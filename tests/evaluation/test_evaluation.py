"""What the scores are worth: known samples get known scores, and the judge is kept."""

import contextlib
import dataclasses
import fcntl
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion import assembly
from gmm_diffusion import config as config_lib
from gmm_diffusion.conditioning.requests import Request
from gmm_diffusion.data import DATASETS, Dataset, Split, batches, to_float
from gmm_diffusion.data import toy as toy_data
from gmm_diffusion.errors import InputError
from gmm_diffusion.evaluation import checks
from gmm_diffusion.evaluation import classifier as classifier_evaluation
from gmm_diffusion.evaluation import denoiser as denoiser_evaluation
from gmm_diffusion.evaluation import heldout as heldout_lib
from gmm_diffusion.evaluation import images as images_lib
from gmm_diffusion.evaluation import judge as judge_lib
from gmm_diffusion.evaluation import report as evaluation_report
from gmm_diffusion.metrics import features, frechet
from gmm_diffusion.metrics import judge as judges
from gmm_diffusion.metrics.features import make_extractor
from gmm_diffusion.model.fitted import FittedStatistics
from gmm_diffusion.model.model import Model, Samples


@pytest.fixture(scope="module")
def digits(make_config):
    config = make_config("tiny")
    config.conditioning.kind = "none"
    data = assembly.dataset(config)
    return config, data, assembly.fit_statistics(config, data)


@pytest.fixture
def path(tiny_run, tmp_path):
    """A run's directory with its judge, whose training would take seconds."""
    shutil.copy(tiny_run[0] / "judge.npz", tmp_path)
    return tmp_path


@pytest.fixture
def score(monkeypatch):
    """`evaluate` of a sampler that returns these samples, asked for these labels."""

    def run(parts, path, samples, labels):
        config, data, fitted = parts

        def sample(model, num, condition, seed, guidance, poll, first, batch_size):
            assert num == len(samples)
            return Samples(samples)

        monkeypatch.setattr(assembly, "sample", sample)
        if labels is not None:
            asked = Request(None, labels)
            monkeypatch.setattr(Model, "request", lambda *_: asked)
        return denoiser_evaluation.evaluate(
            assembly.model(config, data.shape, fitted, {}), data, path
        )

    return run


NUM = 100


def scored(split):
    """The examples that an evaluation of `NUM` samples takes of a split."""
    return split.take(np.linspace(0, len(split) - 1, NUM).astype(int))


def test_real_images_score_their_floor(digits, path, score):
    _, data, _ = digits
    heldout = scored(data.heldout)
    result = score(digits, path, to_float(heldout.x), heldout.label)
    assert len(result["metrics"]) == 7
    for name, metric in result["metrics"].items():
        assert name.endswith(f"_{NUM}")
        assert metric["blocks"] == [metric["floor"]] * 2, name
    floors = {name.removesuffix("_100"): m["floor"] for name, m in result["metrics"].items()}
    assert floors["memorisation"] == pytest.approx(0.05, abs=0.011)
    assert floors["precision"] > 0.85
    assert floors["defect_rate"] == pytest.approx(1 - floors["precision"])
    # The tiny judge is worse than a real one, and far above chance.
    assert floors["agreement"] > 0.7


def test_copies_of_training_images_are_memorised(digits, path, score):
    _, data, _ = digits
    copies = to_float(data.train.x[:NUM])
    metrics = score(digits, path, copies, data.train.label[:NUM])["metrics"]
    assert metrics["memorisation_100"]["value"] == 1
    assert metrics["precision_100"]["value"] == 1


def test_noise_and_wrong_labels_score_badly(digits, path, score):
    _, data, _ = digits
    noise = np.random.default_rng(0).uniform(-1, 1, (NUM, 8, 8, 1)).astype(np.float32)
    metrics = score(digits, path, noise, None)["metrics"]
    assert "agreement_100" not in metrics, "nothing was asked for"
    assert metrics["defect_rate_100"]["value"] > 0.5
    assert metrics["frechet_100"]["value"] > 10 * metrics["frechet_100"]["floor"]
    heldout = scored(data.heldout)
    wrong = (heldout.label + 1) % 10
    metrics = score(digits, path, to_float(heldout.x), wrong)["metrics"]
    assert metrics["agreement_100"]["value"] < 0.15


def test_images_are_rounded_before_any_metric(digits, path, score):
    _, data, _ = digits
    exact = to_float(data.heldout.x[:NUM])
    rng = np.random.default_rng(0)
    near = exact + rng.uniform(-0.4, 0.4, exact.shape).astype(np.float32) / 127.5
    beyond = np.where(exact <= -1, exact - 3, exact)
    results = [score(digits, path, x, None)["metrics"] for x in (exact, near, beyond)]
    assert results[0] == results[1] == results[2]


def test_mirrored_copies_are_memorised_where_training_mirrors(digits, path, score):
    config, data, fitted = digits
    mirrored = to_float(data.train.x[:NUM, :, ::-1])
    apart = score(digits, path, mirrored, None)["metrics"]["memorisation_100"]["value"]
    config = config.copy_and_resolve_references()
    config.data.flip = True
    known = score((config, data, fitted), path, mirrored, None)["metrics"]["memorisation_100"]
    assert known["value"] == 1
    assert apart < 0.9


def test_the_judges_are_kept_and_replaced_when_they_do_not_fit(digits, path, monkeypatch, caplog):
    config, data, _ = digits
    fitted = []
    original = judges.each_judge

    def fit(data, count, *args, **options):
        fitted.append(count)
        return original(data, count, *args, **options)

    def hashes(panel):
        return [judge.hash for judge in panel]

    monkeypatch.setattr(judges, "each_judge", fit)
    content = (path / "judge.npz").read_bytes()
    kept = judge_lib.panel_of(config, data, path)
    assert fitted == []
    assert len(set(hashes(kept))) == 2
    # Broken: trained again, and the same as before.
    (path / "judge.npz").write_bytes(content[: len(content) // 2])
    again = judge_lib.panel_of(config, data, path)
    assert fitted == [2]
    assert "They are trained again" in caplog.text
    assert hashes(again) == hashes(kept)
    assert hashes(judges.load(path / "judge.npz")) == hashes(kept)
    # Stopped after the first one: the second one alone is missing.
    judges.save(kept[:1], path / "judge.npz")
    assert hashes(judge_lib.panel_of(config, data, path)) == hashes(kept)
    assert fitted == [2, 1]
    # Fewer are the first ones.
    fewer = config.copy_and_resolve_references()
    fewer.evaluation.judges = 1
    assert hashes(judge_lib.panel_of(fewer, data, path)) == hashes(kept)[:1]
    # Another seed is another judge; judge i is the one of seed + i.
    config = config.copy_and_resolve_references()
    config.evaluation.judges = 1
    config.evaluation.judge_seed = 1001
    assert hashes(judge_lib.panel_of(config, data, path)) == hashes(kept)[1:]
    assert fitted == [2, 1, 1]


def test_of_two_runs_one_trains_the_judges_and_the_other_waits(digits, path, monkeypatch, caplog):
    """Both trained them, when a sweep of two at a time came to its first evaluations."""
    config, data, _ = digits
    kept = judges.load(path / "judge.npz")
    (path / "judge.npz").unlink()
    monkeypatch.setattr(judges, "each_judge", lambda *_, **__: pytest.fail("trained twice"))
    monkeypatch.setattr(judge_lib, "_WAIT_SECONDS", 0.01)
    caplog.set_level("INFO")
    waited = []
    with (path / "judge.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def poll():
            waited.append(True)
            if len(waited) == 3:
                judges.save(kept, path / "judge.npz")
                fcntl.flock(other, fcntl.LOCK_UN)

        panel = judge_lib.panel_of(config, data, path, poll)
    assert [judge.hash for judge in panel] == [judge.hash for judge in kept]
    assert len(waited) == 3
    assert caplog.text.count("Another process trains the judges") == 1
    assert not (path / "judge.lock").exists()


def test_who_waits_for_judges_can_be_stopped(digits, path):
    config, data, _ = digits
    (path / "judge.npz").unlink()

    def stop():
        raise InterruptedError

    with (path / "judge.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InterruptedError):
            judge_lib.panel_of(config, data, path, stop)


def test_metrics_are_means_over_judges(digits, path, score):
    """Each judge alone, by a run of one judge, gives the numbers that the mean is made of."""
    config, data, fitted = digits
    rng = np.random.default_rng(0)
    heldout = scored(data.heldout)
    blurred = to_float(heldout.x) + 0.4 * rng.normal(size=(NUM, 8, 8, 1)).astype(np.float32)
    both = score(digits, path, blurred, heldout.label)
    alone = []
    for seed in (1000, 1001):
        single = config.copy_and_resolve_references()
        single.evaluation.judges, single.evaluation.judge_seed = 1, seed
        alone.append(score((single, data, fitted), path, blurred, heldout.label))
    assert [j["hash"] for j in both["judges"]] == [r["judges"][0]["hash"] for r in alone]
    printed = evaluation_report.table(both)
    for name, metric in both["metrics"].items():
        singles = [result["metrics"][name] for result in alone]
        assert metric["value"] == pytest.approx(np.mean([m["value"] for m in singles])), name
        assert metric["floor"] == pytest.approx(np.mean([m["floor"] for m in singles])), name
        assert all("judges" not in m for m in singles)
        if name == "memorisation_100":
            assert "judges" not in metric, "it has nothing to do with judges"
            continue
        # Of two numbers the standard deviation is their distance over the root of 2.
        for key, part in (("judges", "value"), ("floor_judges", "floor")):
            distance = abs(singles[0][part] - singles[1][part])
            assert metric[key] == pytest.approx(distance / np.sqrt(2)), name
        assert f"±{metric['judges']:.4f}" in printed
    assert both["metrics"]["frechet_100"]["judges"] > 0
    ceiling = both["metrics"]["coverage_100"]["ceiling"]
    m = len(data.train)
    missed = (m - 1) / (m + 99) * (m - 2) / (m + 98) * (m - 3) / (m + 97)
    assert ceiling == pytest.approx(1 - missed)
    assert f"coverage_100 is expected to be {ceiling:.4f}" in printed


def test_tables_are_of_the_test_split_and_choices_of_validation(digits, path, score):
    config, data, fitted = digits
    config = config.copy_and_resolve_references()
    config.evaluation.split = "validation"
    real = scored(data.validation)
    result = score((config, data, fitted), path, to_float(real.x), real.label)
    assert result["floor_split"] == "validation"
    for metric in result["metrics"].values():
        assert metric["value"] == pytest.approx(metric["floor"])
    config.data.validation_fraction = 0.0
    with pytest.raises(InputError, match=r"evaluation\.split is 'validation'"):
        config_lib.validate(config)


def in_order_of_class(split):
    return split.take(np.argsort(split.label, kind="stable"))


def test_every_class_counts_in_data_sorted_by_class(digits, path, monkeypatch):
    """A folder's images come class by class: 0, 1 and 2 are the first 100 of 360 digits."""
    config, data, fitted = digits
    parts = {
        name: in_order_of_class(getattr(data, name)) for name in ("train", "heldout", "validation")
    }
    data = dataclasses.replace(data, **parts)
    seen = {}

    # The floor, and the threshold of memorisation.
    class Scores(images_lib.ImageScores):
        def __call__(self, x, labels, attributes=None):
            seen.setdefault("floor", labels)
            real = {image.tobytes(): label for image, label in zip(*held, strict=True)}
            seen["memorisation"] = [real[image.tobytes()] for image in self.real]
            train = {image.tobytes(): label for image, label in zip(*trained, strict=True)}
            seen["reference"] = [train[image.tobytes()] for image in self.train]
            return super().__call__(x, labels, attributes)

    held = data.heldout.x, data.heldout.label
    trained = data.train.x, data.train.label
    monkeypatch.setattr(denoiser_evaluation, "ImageScores", Scores)
    drawn = Samples(to_float(data.train.x[:NUM]))
    monkeypatch.setattr(assembly, "sample", lambda *_, **__: drawn)
    config = config.copy_and_resolve_references()
    config.evaluation.max_reference = 700
    denoiser_evaluation.evaluate(assembly.model(config, data.shape, fitted, {}), data, path)
    # Losses while training, of at most so many examples.
    monkeypatch.setattr(heldout_lib, "_LOSS_EXAMPLES", 50)
    weighted = []
    monkeypatch.setattr(assembly, "split_weights", lambda c, k, split: weighted.append(split.label))
    heldout_lib.make_heldout_losses(config, data, fitted)
    (seen["loss"],) = weighted
    for name, label in seen.items():
        counts = np.bincount(label, minlength=10)
        assert counts.max() - counts.min() <= 0.2 * len(label) / 10 + 2, name
    assert len(seen["reference"]) == 700


def test_every_combination_counts_in_unseen_data_sorted_by_them():
    attributes = np.repeat(np.eye(4, dtype=np.uint8), 50, axis=0)
    split = Split(np.arange(200, dtype=np.float32)[:, None], None, attributes)
    data = Dataset("points", split, split, unseen=split)
    conditioner = SimpleNamespace(attributes=SimpleNamespace(laid_out=True))
    taken = denoiser_evaluation._unseen(data, conditioner, 10)
    assert len(taken.split) == 10
    assert taken.split.attributes.any(axis=0).all()
    np.testing.assert_array_equal(taken.request.attributes, taken.attributes)


def test_the_readings_of_a_classifier_are_of_every_class(make_config, monkeypatch):
    config = make_config("tiny")
    config.training.task = "classifier"
    config.conditioning.kind = "class"
    data = assembly.dataset(config)
    fitted = assembly.fit_statistics(config, data)
    params = assembly.init_params(config, data.shape, fitted)
    weighed = []
    split_weights = assembly.split_weights

    def counting(config, fitted, split):
        weighed.append(len(split))
        return split_weights(config, fitted, split)

    monkeypatch.setattr(assembly, "split_weights", counting)
    reader = classifier_evaluation.make_reader(config, fitted)
    read = reader(in_order_of_class(data.heldout), 20)
    for _ in range(2):
        _, _, true = read(params)
    # However often it is read, a split's weights are made once.
    assert weighed == [20]
    assert len(true) == 20
    assert set(true.tolist()) == set(range(10))


@pytest.fixture(scope="module")
def toy(make_config):
    config = make_config("toy")
    config.conditioning.kind = "none"
    config.data.num_heldout = 2000
    config.evaluation.max_samples = 2000
    config.evaluation.blocks = 1
    data = assembly.dataset(config)
    return config, data, assembly.fit_statistics(config, data)


def test_points_are_scored_by_the_true_density(toy, score, tmp_path):
    _, data, _ = toy
    real = score(toy, tmp_path, data.heldout.x, data.heldout.label)
    assert real["judges"] == []
    assert not (tmp_path / "judge.npz").exists()
    assert real["metrics"].keys() == {
        "frechet_2k",
        "sliced_wasserstein_2k",
        "mmd_2k",
        "density_defects_2k",
        "log_density_2k",
        "condition_defects_2k",
        "condition_log_density_2k",
        "condition_log_density_min_2k",
        "agreement_2k",
    }
    for metric in real["metrics"].values():
        assert metric["value"] == metric["floor"]
    # The threshold is the thousandth of the training points that is least likely.
    assert real["metrics"]["density_defects_2k"]["floor"] < 0.01
    # The components of the ring lie 13 standard deviations apart.
    assert real["metrics"]["agreement_2k"]["floor"] == 1
    # The centre of the ring is empty.
    rng = np.random.default_rng(0)
    centre = rng.normal(0, 0.05, size=data.heldout.x.shape).astype(np.float32)
    metrics = score(toy, tmp_path, centre, data.heldout.label)["metrics"]
    assert metrics["density_defects_2k"]["value"] == 1
    assert metrics["frechet_2k"]["value"] > 0.5


def test_points_are_scored_by_the_density_of_the_class_asked_for(toy, score, tmp_path):
    """Against SciPy's density of each class; the last point is far outside."""
    _, data, _ = toy
    x, labels = data.heldout.x.copy(), data.heldout.label
    x[-1] = 5.0
    metrics = score(toy, tmp_path, x, labels)["metrics"]
    known = toy_data.MIXTURES["ring"]()

    def log_density(points, label):
        own = np.flatnonzero(known.component_class == label)
        share = known.weights[own] / known.weights[own].sum()
        normals = [stats.multivariate_normal(known.means[k], known.covariances[k]) for k in own]
        parts = [np.log(w) + n.logpdf(points) for w, n in zip(share, normals, strict=True)]
        return np.logaddexp.reduce(parts, axis=0)

    values = [log_density(x[labels == c], c) for c in range(4)]
    least = min(v.min() for v in values)
    assert least < -100
    assert metrics["condition_log_density_min_2k"]["value"] == pytest.approx(least, rel=1e-3)
    # The mean of the true density is its negative entropy, from which the cut is reckoned.
    bound = np.mean([v[:-1].mean() for v in values]) - 21.4
    mean = np.mean([np.maximum(v, bound).mean() for v in values])
    assert metrics["condition_log_density_2k"]["value"] == pytest.approx(mean, abs=0.01)
    assert 0 < metrics["condition_defects_2k"]["value"] < 0.01
    # Points of another class are defects under the condition and none under the whole density.
    swapped = score(toy, tmp_path, data.heldout.x, (labels + 1) % 4)["metrics"]
    assert swapped["condition_defects_2k"]["value"] == 1
    assert swapped["density_defects_2k"]["value"] < 0.01
    assert swapped["sliced_wasserstein_2k"]["value"] > 0.3
    assert abs(swapped["mmd_2k"]["floor"]) < 0.003
    assert swapped["mmd_2k"]["value"] > 0.1


def test_unlabelled_images_are_scored_in_principal_components(digits, score, tmp_path):
    config, data, fitted = digits
    unlabelled = Dataset("unlabelled", Split(data.train.x), Split(data.heldout.x))
    real = to_float(scored(data.heldout).x)
    result = score((config, unlabelled, fitted), tmp_path, real, None)
    assert result["judges"] == []
    assert result["features"]["frechet"].startswith("pca32:")
    for metric in result["metrics"].values():
        assert metric["value"] == metric["floor"]


def test_heldout_losses_of_a_network_that_says_nothing(toy):
    # Its denoiser is c_skip x, whose weighted error is 1 at every noise level if the data's entries
    # have the variance sigma_data^2 (Karras et al. 2022, table 1).
    config, data, fitted = toy
    params = assembly.init_params(config, data.shape, fitted)
    losses = heldout_lib.make_heldout_losses(config, data, fitted)(params)
    # Quartiles of ln sigma ~ N(-1.2, 1.2): exp(-1.2 -+ 0.6745 * 1.2).
    assert losses.keys() == {
        "heldout_loss/sigma_0.134",
        "heldout_loss/sigma_0.677",
        "heldout_loss/mean",
    }
    for value in losses.values():
        assert value == pytest.approx(1, abs=0.1)
    assert losses["heldout_loss/mean"] == pytest.approx(
        (losses["heldout_loss/sigma_0.134"] + losses["heldout_loss/sigma_0.677"]) / 2
    )
    assert heldout_lib.make_heldout_losses(config, data, fitted)(params) == losses


def test_images_become_floats_a_batch_at_a_time(digits, monkeypatch):
    # As floats they take four times the memory.
    config, data, fitted = digits
    sizes = []

    def noted(x):
        sizes.append(len(x))
        return to_float(x)

    monkeypatch.setattr(batches, "to_float", noted)
    params = assembly.init_params(config, data.shape, fitted)
    heldout_lib.make_heldout_losses(config, data, fitted)(params)
    assert max(sizes) <= config.sample.batch_size < len(data.watched)


def test_what_is_watched_again_compiles_nothing(toy, caplog):
    # What was compiled is kept as long as the process lives: a run of days would fill the memory.
    config, data, fitted = toy
    params = assembly.init_params(config, data.shape, fitted)
    losses = heldout_lib.make_heldout_losses(config, data, fitted)
    sheet = heldout_lib.make_sheet(config, data, fitted)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        for _ in range(2):
            losses(params)
            sheet(params)
            compiled = [m for m in caplog.messages if m.startswith("Compiling")]
            caplog.clear()
    assert not compiled


def colourful(channels):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, channels), dtype=np.uint8)
    return Dataset("photographs", Split(x), Split(x))


def test_what_an_evaluation_would_stumble_over_is_refused_early(digits, tmp_path):
    config, data, _ = digits
    checks.check(config, data)
    checks.check(config, colourful(3))
    # Of other images: components are known before a judge is trained.
    others = dataclasses.replace(data, train=data.heldout)
    extractor = make_extractor("pca", others)
    frechet.save(features.statistics(extractor, others.train.x), tmp_path / "pca.npz")
    config = config.copy_and_resolve_references()
    config.evaluation.features = "pca"
    for changes, other, message in [
        ({}, colourful(4), "4 channels"),
        ({"evaluation.neighbours": 40}, colourful(1), "below the 40 images"),
        ({"evaluation.neighbours": 100}, data, "below the 100 images"),
        ({"evaluation.max_reference": 3}, data, "neighbours"),
        ({"evaluation.statistics": f"{tmp_path}/pca.npz"}, data, "features pca"),
        ({"evaluation.features": f"file:{tmp_path}/x"}, data, "names no file"),
    ]:
        config_of_case = config.copy_and_resolve_references()
        config_of_case.update_from_flattened_dict(changes)
        with pytest.raises(InputError, match=message):
            checks.check(config_of_case, other)


def test_what_an_evaluation_of_vectors_would_pass_over_is_refused(toy, tmp_path):
    config, data, _ = toy
    frechet.save(features.statistics(features.RAW, data.train.x), tmp_path / "raw.npz")
    frechet.save(features.statistics(features.RAW, data.train.x[:, :1]), tmp_path / "flat.npz")
    frechet.save(
        features.statistics(make_extractor("pca", data), data.train.x), tmp_path / "pca.npz"
    )
    (tmp_path / "judge").write_text("")
    one = dataclasses.replace(data, heldout=data.heldout.take(np.array([0])))
    for changes, other, message in [
        ({}, one, "1 heldout examples; an evaluation needs at least 2"),
        ({"evaluation.judge_dir": "judge"}, data, r"judge_dir is .*which is a file"),
        ({"evaluation.features": "file:x"}, data, "the vectors of toy .* are compared as they are"),
        ({"evaluation.statistics": f"{tmp_path}/x.npz"}, data, "x.npz"),
        (
            {"evaluation.statistics": f"{tmp_path}/flat.npz"},
            data,
            "of examples of 1; those of toy ring .* are 2",
        ),
        ({"evaluation.statistics": f"{tmp_path}/pca.npz"}, data, "are of the features pca2"),
        ({"evaluation.statistics": f"{tmp_path}/raw.npz"}, data, ""),
    ]:
        config_of_case = config.copy_and_resolve_references()
        config_of_case.update_from_flattened_dict(changes)
        refusal = pytest.raises(InputError, match=message) if message else contextlib.nullcontext()
        with refusal:
            checks.check(config_of_case, other, tmp_path)


def test_stored_statistics_of_vectors_are_used(toy, score, tmp_path):
    config, data, fitted = toy
    # Of the points moved by 3 in one direction: the distance to them is 9.
    moved = data.heldout.x + np.array([3, 0], np.float32)
    frechet.save(features.statistics(features.RAW, moved), tmp_path / "moved.npz")
    config = config.copy_and_resolve_references()
    config.evaluation.statistics = str(tmp_path / "moved.npz")
    found = score((config, data, fitted), tmp_path, data.heldout.x, data.heldout.label)
    assert found["metrics"]["frechet_2k"]["value"] == pytest.approx(9, rel=1e-5)


def test_the_table_shows_what_the_file_holds(digits, path, score, capsys):
    config, data, fitted = digits
    heldout = scored(data.heldout)
    score(digits, path, to_float(heldout.x), heldout.label)
    model = assembly.model(config, data.shape, fitted, {}, 7)
    result = evaluation_report.evaluate_and_report(model, data, path)
    assert json.loads((path / "evaluation.json").read_text()) == result
    assert result["step"] == 7
    printed = capsys.readouterr().out
    for name in result["metrics"]:
        assert name in printed
    for name in ("evaluation.json", "judge.npz"):
        assert str(path / name) in printed
    assert "metrics.jsonl" not in printed, "only files that exist"
    assert result["settings"]["evaluation.blocks"] == 2
    assert result["settings"].keys() == config_lib.sampling_fields(config).keys()
    # A named evaluation stands beside it.
    config = config.copy_and_resolve_references()
    config.evaluation.name = "seven"
    named = evaluation_report.evaluate_and_report(
        dataclasses.replace(model, config=config, step=8), data, path
    )
    assert json.loads((path / "evaluations" / "seven.json").read_text()) == named
    assert json.loads((path / "evaluation.json").read_text()) == result


def test_every_dataset_can_be_scored():
    # Images, vectors and latents are the kinds that there are; another one needs scores of its own.
    images = {"digits", "faces", "tfds_images", "image_folder", "cifar_archive"}
    assert set(DATASETS) == {"toy", "arrays", *images}
    assert set(FittedStatistics.__dataclass_fields__) >= {"transform", "sigma_data", "conditioner"}


def test_stored_statistics_stand_for_the_training_split(digits, path, score):
    config, data, fitted = digits
    heldout = scored(data.heldout)
    plain = score(digits, path, to_float(heldout.x), None)["metrics"][f"frechet_{NUM}"]
    first, _ = judges.load(path / "judge.npz")
    extractor = make_extractor("judge", data, first)
    # Of the held-out images themselves: their distance to it is none.
    frechet.save(features.statistics(extractor, heldout.x), path / "mine.npz")
    config = config.copy_and_resolve_references()
    config.evaluation.statistics = str(path / "mine.npz")
    mine = score((config, data, fitted), path, to_float(heldout.x), None)["metrics"]
    assert mine[f"frechet_{NUM}"]["value"] == pytest.approx(0, abs=1e-3)
    assert plain["value"] > 0.1
    frechet.save(features.statistics(make_extractor("pca", data), heldout.x), path / "mine.npz")
    with pytest.raises(InputError, match=r"evaluation\.statistics are of the features pca"):
        score((config, data, fitted), path, to_float(heldout.x), None)
    # A judge takes long to train, and so this is known before there is one.
    with pytest.raises(InputError, match=r"evaluation\.statistics are of the features pca"):
        checks.check(config, data)
    config.evaluation.features = "pca"
    checks.check(config, data)

"""Lines of JSON, and TensorBoard events read back with TensorBoard's own reader."""

import json
import logging
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from gmm_diffusion import lazy_tensorflow
from gmm_diffusion.errors import RunError
from gmm_diffusion.runs import metrics_log
from gmm_diffusion.runs.metrics_log import MetricsLog


def lines(workdir):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_one_line_a_write(tmp_path):
    workdir = tmp_path / "new"
    with MetricsLog(workdir, tensorboard=False) as log:
        log.write(1, {"loss": 0.5, "nonfinite": 0})
        log.write(jnp.asarray(20), {"loss": np.float32(0.25), "rate": jnp.asarray(1.5)})
        assert len(lines(workdir)) == 2
    with MetricsLog(workdir, tensorboard=False) as log:
        log.write(30, {})
    assert lines(workdir) == [
        {"step": 1, "loss": 0.5, "nonfinite": 0},
        {"step": 20, "loss": 0.25, "rate": 1.5},
        {"step": 30},
    ]
    assert os.listdir(workdir) == ["metrics.jsonl"]


def test_numbers_that_json_lacks_can_be_read_back(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(1, {"a": math.nan, "b": math.inf, "c": -np.float32(math.inf)})
    (line,) = lines(tmp_path)
    assert math.isnan(float(line["a"]))
    assert (float(line["b"]), float(line["c"])) == (math.inf, -math.inf)


def test_resuming_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics_log.truncate(tmp_path, 5)
    assert not path.exists()
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for step in (10, 20, 30):
            log.write(step, {"loss": 1.0})
        with path.open("a") as file:
            file.write('not JSON\n[1]\n{"loss": 1}\n{"step": 15')
        log.truncate(20)
        log.write(25, {"loss": 2.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 25]
    before = path.stat()
    metrics_log.truncate(tmp_path, 25)
    assert path.stat() == before
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_line_that_cannot_be_written_ends_the_run(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with (
        MetricsLog(tmp_path, tensorboard=False) as log,
        pytest.raises(RunError, match=r"Metrics could not be written to .*metrics\.jsonl"),
    ):
        log.write(1, {"loss": 1.0})


def test_tensorboard_reads_scalars_and_images(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("tensorflow")
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    with MetricsLog(tmp_path) as log:
        for step in (10, 20):
            log.write(step, {"loss": 1 / step, "bad": math.nan})
        log.write_images(20, {"samples": image})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    loss = [
        (e.step, np.frombuffer(e.tensor_proto.tensor_content, np.float32)[0])
        if e.tensor_proto.tensor_content
        else (e.step, e.tensor_proto.float_val[0])
        for e in events.Tensors("loss")
    ]
    assert loss == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    (sheet,) = events.Tensors("samples")
    assert sheet.step == 20
    width, height, png = sheet.tensor_proto.string_val
    assert (width, height) == (b"5", b"6")
    assert png.startswith(b"\x89PNG")
    assert len(lines(tmp_path)) == 2


def test_without_tensorflow_only_lines_are_written(tmp_path, monkeypatch):
    find_spec = metrics_log.importlib.util.find_spec
    monkeypatch.setattr(
        metrics_log.importlib.util,
        "find_spec",
        lambda name: None if name == "tensorflow" else find_spec(name),
    )
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 1.0})
        log.write_images(1, {"samples": np.zeros((2, 2, 3), np.uint8)})
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


class BrokenWriter:
    """Stands in for clu's writers where events cannot be written."""

    def __init__(self, directory):
        pass

    def write_scalars(self, step, scalars):
        raise OSError("No space left on device")


class BrokenWriters:
    SummaryWriter = BrokenWriter


def test_a_failed_event_is_reported_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(metrics_log, "_installed", lambda: True)
    monkeypatch.setattr(lazy_tensorflow, "import_metric_writers", lambda: BrokenWriters)
    caplog.set_level(logging.WARNING)
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
    assert len(lines(tmp_path)) == 3
    (message,) = [m for m in caplog.messages if "TensorBoard" in m]
    assert message == f"No further TensorBoard events in {tmp_path}: No space left on device"


def test_tensorflow_is_not_imported_before_the_first_write(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(metrics_log, "_installed", lambda: True)
    monkeypatch.setattr(
        lazy_tensorflow, "import_metric_writers", lambda: calls.append(1) or BrokenWriters
    )
    with MetricsLog(tmp_path):
        pass
    assert calls == []


def test_training_takes_what_the_rates_say(tmp_path):
    assert metrics_log.training_seconds(tmp_path, 32) is None
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(10, {"loss": 1.0, "images_per_second": 64.0})
        log.write(10, {"heldout_loss/mean": 1.0})
        log.write(40, {"loss": 1.0, "images_per_second": 96.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "images_per_s')
    # 10 updates of 32 images at 64 a second, and 30 at 96.
    assert metrics_log.training_seconds(tmp_path, 32) == pytest.approx(5 + 10)

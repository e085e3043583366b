"""What wandb has of a run, offline, read from its own files; and what is refused."""

import json
import logging
import shutil
import struct
import sys
import time

import numpy as np
import pytest

from gmm_diffusion import config as config_lib
from gmm_diffusion import extras
from gmm_diffusion.errors import InputError
from gmm_diffusion.runs import wandb_writer
from gmm_diffusion.runs.metrics_log import MetricsLog


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    # Whoever runs the tests may have an account.
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.fixture
def copied_run(tiny_run, tmp_path):
    shutil.copytree(tiny_run[0], tmp_path / "run")
    return tmp_path / "run"


def records(file):
    """The records of a file of wandb: those of LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def whole(file, seconds=60):
    """The records of a file once wandb's own process has closed it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = list(records(file))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} is never finished")


def written(directory):
    """Of each time that a run was open: id and config, values of each step, summary, pictures."""
    found = []
    for folder in sorted((directory / "wandb").glob("offline-run-*")):
        (file,) = folder.glob("*.wandb")
        config, history, summary, ids = {}, {}, {}, set()
        for record in whole(file):
            if record.WhichOneof("record_type") == "run":
                ids.add((record.run.run_id, record.run.project, record.run.display_name))
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            if record.WhichOneof("record_type") == "history":
                items = {
                    "/".join(i.nested_key) or i.key: json.loads(i.value_json)
                    for i in record.history.item
                }
                history.setdefault(items["_step"], {}).update(items)
            for update in record.summary.update:
                summary["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
        found.append((ids, config, history, summary, sorted(folder.rglob("*.png"))))
    return found


def test_scalars_and_images_under_one_id(tmp_path, caplog):
    run = tmp_path / "seven"
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    config = config_lib.default()
    with caplog.at_level(logging.INFO):
        for start in (0, 20):
            config.training.num_steps = 20 + start
            with MetricsLog(run, tensorboard=False, wandb=config) as log:
                log.write(10 + start, {"loss": 0.5, "bad": float("nan")})
                log.write(20 + start, {"loss": np.float32(0.25)})
                log.write_images(20 + start, {"samples": image})
    assert f"wandb has this run at {run}/wandb/offline-run-" in caplog.text
    assert "No further" not in caplog.text
    first, second = written(run)
    assert first[0] == second[0] == {(wandb_id(run), "gmm_diffusion", "seven")}
    assert first[1]["training"]["num_steps"] == 20
    assert second[1]["training"]["num_steps"] == 40
    assert first[1]["conditioning"]["kind"] == "gmm"
    assert [sorted(part[2]) for part in (first, second)] == [[10, 20], [30, 40]]
    assert first[2][10]["loss"] == 0.5
    assert np.isnan(float(first[2][10]["bad"]))
    assert (second[2][40]["loss"], second[2][40]["samples/width"]) == (0.25, 5)
    assert len(first[4]) == len(second[4]) == 1
    # The lines do not depend on it.
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4


def wandb_id(run):
    return json.loads((run / "wandb.json").read_text())["id"]


def test_a_run_that_goes_on_and_its_evaluation(run_main, copied_run):
    arguments = [f"--workdir={copied_run}", "--config.logging.wandb=true"]
    for steps in (14, 16):
        status, _, err = run_main(
            *arguments,
            f"--config.training.num_steps={steps}",
            f"--config.evaluation.at_end={steps == 16}",
        )
        assert status == 0, err
    first, second, last = written(copied_run)
    assert len(first[0] | second[0] | last[0]) == 1
    assert (max(first[2]), max(second[2])) == (14, 16)
    lines = [json.loads(s) for s in (copied_run / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["step"] == 16 and "loss" in line]
    assert second[2][16]["loss"] == line["loss"]
    (sheet,) = second[4]
    assert sheet.read_bytes().startswith(b"\x89PNG")
    result = json.loads((copied_run / "evaluation.json").read_text())
    for name, metric in result["metrics"].items():
        assert last[3][f"evaluation/{name}"] == pytest.approx(metric["value"])
    assert last[3]["evaluation/step"] == 16


def test_what_cannot_be_written_is_refused_at_once(monkeypatch):
    wandb_writer.check()
    monkeypatch.setenv("WANDB_MODE", "online")
    import wandb

    wandb.teardown()
    with pytest.raises(InputError, match="knows no account here; type `wandb login`"):
        wandb_writer.check()
    wandb.teardown()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="needs wandb, which cannot be imported") as caught:
        wandb_writer.check()
    assert extras.advice("wandb") in str(caught.value)


def test_a_failure_ends_nothing(tmp_path, monkeypatch, caplog):
    class Broken(wandb_writer.WandbWriter):
        def __init__(self, directory, config):
            raise OSError("no network")

    monkeypatch.setattr(wandb_writer, "WandbWriter", Broken)
    with MetricsLog(tmp_path, tensorboard=False, wandb=config_lib.default()) as log:
        log.write(1, {"loss": 1.0})
    assert f"No further curves for wandb in {tmp_path}: no network" in caplog.text
    result = {"step": 1, "metrics": {}}
    wandb_writer.write_evaluation(config_lib.default(), tmp_path, result)
    assert "wandb did not get the evaluation: no network" in caplog.text

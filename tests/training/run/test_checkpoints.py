"""Checkpoints: complete or absent, known to be whole, and kept as promised."""

import json
import shutil
from pathlib import Path

import pytest

from training.errors import InputError
from training.files import sha256_of_values
from training.run.checkpoints import MANIFEST, Checkpoints, manifest_of, problems_of

FINGERPRINT = {"batch": {"tokens_per_step": 256, "processes": 1}}
REQUIRED = ("config.json", "scheduler.pt", "trainer_state.json", "rng_state.pth", "progress-0.json")
FILES = {"model.safetensors": b"weights" * 50, "optimizer.pt": b"moments" * 90, "tokenizer/tokenizer.json": b"{}"}
FILES |= dict.fromkeys(REQUIRED, b"{}")


def save(checkpoints: Checkpoints, step: int) -> Path:
    for name, content in FILES.items():
        file = checkpoints.staging / f"checkpoint-{step}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return checkpoints.publish(step)


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path, FINGERPRINT, limit=None)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_published_checkpoint_is_whole_and_says_what_it_belongs_to(checkpoints, tmp_path):
    checkpoint = save(checkpoints, 7)
    assert names(tmp_path) == {"checkpoint-7"}
    assert problems_of(checkpoint) == []
    manifest = manifest_of(checkpoint)
    assert (manifest["step"], manifest["fingerprint"]) == (7, FINGERPRINT)
    assert {name: record["bytes"] for name, record in manifest["files"].items()} == {
        n: len(c) for n, c in FILES.items()
    }


def test_nothing_has_a_checkpoints_name_before_it_is_complete(checkpoints, monkeypatch):
    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("modeling_gpt_scratch.durable.flush", fail)
    with pytest.raises(OSError, match="no space"):
        save(checkpoints, 7)
    assert checkpoints.all() == []
    checkpoints.discard_staging()
    assert list(checkpoints.run.iterdir()) == []


DAMAGE = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "one byte flipped": lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_the_one_before_is_taken_where_any_file_of_the_newest_is_damaged(name, damage, checkpoints, tmp_path):
    older, newest = save(checkpoints, 7), save(checkpoints, 14)
    DAMAGE[damage](newest / name)
    found, lines = checkpoints.newest_valid()
    assert found == older
    assert len(lines) == 1
    assert lines[0].startswith(f"checkpoint-14 is set aside as set-aside-checkpoint-14-1: {name} ")
    assert names(tmp_path) == {"checkpoint-7", "set-aside-checkpoint-14-1"}
    assert problems_of(older) == []


def test_no_whole_checkpoint_is_an_error_and_moves_nothing(checkpoints, tmp_path):
    for step in (7, 14):
        (save(checkpoints, step) / "optimizer.pt").unlink()
    with pytest.raises(
        InputError, match=r"checkpoint-14 cannot be used: optimizer\.pt is missing(.|\n)*no checkpoint to go"
    ):
        checkpoints.newest_valid()
    assert names(tmp_path) == {"checkpoint-7", "checkpoint-14"}


def test_no_checkpoint_at_all_is_a_fresh_start(checkpoints):
    assert checkpoints.newest_valid() == (None, [])


def test_a_step_that_is_reached_again_replaces_its_checkpoint(checkpoints):
    first = save(checkpoints, 7)
    (first / "old").write_text("")
    assert not (save(checkpoints, 7) / "old").exists()


@pytest.mark.parametrize(("limit", "kept"), [(None, [1, 2, 3, 4, 5]), (1, [2, 5]), (2, [2, 4, 5]), (4, [2, 3, 4, 5])])
def test_the_newest_ones_are_kept_and_the_best(limit, kept, tmp_path):
    losses = {1: 3.0, 2: 1.5, 3: 2.0, 4: 1.6}  # the newest is not measured yet
    lines = [json.dumps({"step": step, "eval_loss": loss}) for step, loss in losses.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    checkpoints = Checkpoints(tmp_path, FINGERPRINT, limit)
    for step in range(1, 6):
        save(checkpoints, step)
    assert [int(path.name.split("-")[1]) for path in checkpoints.all()] == kept


def test_a_lack_of_space_is_found_before_anything_is_written(checkpoints, monkeypatch):
    usage = shutil.disk_usage(checkpoints.run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100 * 2**20))
    assert checkpoints.lack_of_space(60 * 2**20) is None
    assert checkpoints.lack_of_space(90 * 2**20) == "100 MiB are free, 122 MiB needed"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", *REQUIRED])
def test_a_checkpoint_that_lacks_what_a_run_needs_is_not_sealed(name, checkpoints, monkeypatch):
    monkeypatch.delitem(FILES, name)
    with pytest.raises(OSError, match=f"{name} was not written"):
        save(checkpoints, 7)
    assert checkpoints.all() == []


def test_every_process_and_a_scaler_have_a_part_in_a_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"batch": {"processes": 2}}, limit=None)
    with pytest.raises(OSError, match=r"rng_state_0\.pth, rng_state_1\.pth, progress-1\.json was not written"):
        save(checkpoints, 7)
    for name in ("rng_state_0.pth", "rng_state_1.pth", "progress-1.json"):
        (checkpoints.staging / "checkpoint-7" / name).write_text("{}")
    with pytest.raises(OSError, match=r"scaler\.pt was not written"):
        checkpoints.publish(7, is_scaled=True)
    assert problems_of(checkpoints.publish(7)) == []


def test_a_checkpoint_of_another_version_is_not_called_damaged(checkpoints, tmp_path):
    manifest = json.loads((save(checkpoints, 7) / MANIFEST).read_text())
    del manifest["is_scaled"], manifest["sha256"]
    manifest["sha256"] = sha256_of_values(manifest)
    (tmp_path / "checkpoint-7" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"written by another version of this program(.|\n)*go on with the version"):
        checkpoints.newest_valid()
    assert names(tmp_path) == {"checkpoint-7"}


def test_a_manifest_that_seals_too_little_is_not_believed(checkpoints):
    checkpoint = save(checkpoints, 7)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["files"]["scheduler.pt"], manifest["sha256"]
    manifest["sha256"] = sha256_of_values(manifest)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    assert problems_of(checkpoint) == ["scheduler.pt is missing"]

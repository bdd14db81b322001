from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from damoyolo.errors import RunError, UserError
from damoyolo.training.checkpoint import STATE_FILE, load_state, remove_unfinished, save_state

STATE = {
    "step": 7,
    "best_ap": -float("inf"),
    "sums": "{}",
    "detector": {"weight": torch.arange(6.0).reshape(1, 2, 3, 1).to(memory_format=torch.channels_last)},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "rng": torch.get_rng_state(),
}


class Malice:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def power_cut(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_saved_is_loaded_memory_layout_included(tmp_path: Path) -> None:
    save_state(tmp_path / "new" / "folder", STATE)
    loaded = load_state(tmp_path / "new" / "folder")
    assert loaded is not None
    assert loaded.keys() == STATE.keys()
    weight = loaded["detector"]["weight"]
    assert torch.equal(weight, STATE["detector"]["weight"])
    assert weight.stride() == STATE["detector"]["weight"].stride()
    assert loaded["optimizer"] == STATE["optimizer"]
    assert torch.equal(loaded["rng"], STATE["rng"])
    assert (loaded["step"], loaded["best_ap"]) == (7, -float("inf"))


def test_before_the_first_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"not a state", b"PK\x03\x04 a zip file that is none", pickle.dumps([1, 2]), "truncated", "list"],
)
def test_a_damaged_state_is_told_in_one_sentence(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / STATE_FILE
    if content == "list":
        torch.save([1, 2], path)
    elif content == "truncated":
        save_state(tmp_path, STATE)
        path.write_bytes(path.read_bytes()[:-400])
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_state(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("; remove it to begin the run again")
    assert "\n" not in message


def test_a_state_from_a_stranger_runs_no_code(tmp_path: Path) -> None:
    torch.save({"step": Malice(tmp_path / "trace")}, tmp_path / STATE_FILE)
    with pytest.raises(UserError, match="damaged or no training state"):
        load_state(tmp_path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_state_and_no_litter(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, STATE)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(RunError, match=rf"{STATE_FILE}: cannot be written \(No space left on device\)"):
            save_state(tmp_path, {**STATE, "step": 8})
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 7
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_write_that_is_cut_off_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, STATE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", power_cut)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # nobody is left to clean up
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, {**STATE, "step": 8})
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 7
    (tmp_path / ".hidden").touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {STATE_FILE, ".hidden"}

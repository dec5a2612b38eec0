"""Writers: JSON lines that any reader takes, TensorBoard without TensorFlow."""

import errno
import json
import math
import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax.progress import Progress, StoppedError, progress_bar
from uronet_jax.writers import Writer


def lines(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_json_and_on_disk_at_once(tmp_path):
    writer = Writer(tmp_path)
    writer.write(3, "train", {"loss": jnp.float32(0.5), "rate": np.float64(2)})
    assert lines(tmp_path) == [{"step": 3, "kind": "train", "loss": 0.5, "rate": 2.0}]
    writer.write(4, "validation", {"a": math.nan, "b": -math.inf, "c": 1, "d": "x"})
    writer.close()
    # NaN is not JSON: missing, not zero.
    assert lines(tmp_path)[1] == {
        "step": 4, "kind": "validation", "a": None, "b": None, "c": 1, "d": "x"
    }  # fmt: skip
    writer = Writer(tmp_path)  # A resumed run appends.
    writer.write(5, "train", {"loss": 0.0})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [3, 4, 5]


@pytest.mark.parametrize(
    ("left", "steps"),
    [
        ('{"step": 1}\n{"step": 2, "ki', [1, 3]),
        ('{"st', [3]),
        ('{"step": 1}\n{"step": 2}\n', [1, 2, 3]),
        ('{"step": 1}\n{"step": 2}', [1, 2, 3]),  # Whole, but for the end of the line.
        ('{"step": 1}\n{"step": 2, "a": "' + "x" * 9000, [1, 3]),
        ('{"step": 1, "a": "' + "x" * 9000 + '"}', [1, 3]),
    ],
)
def test_half_a_line_takes_no_other_with_it(tmp_path, left, steps):
    (tmp_path / "metrics.jsonl").write_text(left)
    writer = Writer(tmp_path)
    writer.write(3, "train", {"loss": 0.0})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == steps


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
def test_a_full_disk_is_told_with_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = Writer(tmp_path)
    for act in (lambda: writer.write(1, "train", {"loss": 0.0}), writer.close):
        with pytest.raises(OSError, match="No space left.*metrics.jsonl"):
            act()


def test_nothing_is_written_without_folder_or_by_other_processes(tmp_path):
    for writer in (Writer(tmp_path, active=False), Writer()):
        writer.write(1, "train", {"loss": 0.0})
        writer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("done", [0, 4])
def test_tensorboard_files_hold_the_scalars(tmp_path, done):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    # What an earlier process wrote of later steps is hidden.
    writer = Writer(tmp_path, tensorboard=True, done=done)
    writer.write(7, "train", {"loss": 0.25, "broken": math.nan})
    writer.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, found, started = path.read_bytes(), {}, []
    while data:  # A record: length (8 bytes), its checksum (4), event, checksum (4).
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        started += [event.step] if event.HasField("session_log") else []
        data = data[16 + size :]
    assert found == {("train/loss", 7): 0.25} and started == [done + 1]


def test_an_error_of_tensorboard_names_its_folder(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = Writer(tmp_path, tensorboard=True)
    monkeypatch.setattr(writer._events, "flush", full)
    with pytest.raises(OSError, match="No space left.*tensorboard'$"):
        writer.write(1, "train", {"loss": 0.0})
    writer.close()


def test_missing_tensorboard_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"pip install .uronet_jax\[tensorboard\]"):
        Writer(tmp_path, tensorboard=True)


def test_progress_bar_starts_where_a_resumed_run_stands(capsys):
    with progress_bar(10, 4, description="remover") as bar:
        bar.update(2)
        assert (bar.n, bar.total, bar.initial) == (6, 10, 4)
    assert "remover" in capsys.readouterr().err
    with Progress(shown=False).bar(10, "remover", "step") as bar:
        bar.update(1)
    assert capsys.readouterr().err == ""


def test_progress_in_a_log_file_is_a_line_now_and_then(capsys):
    with progress_bar(100, description="steps") as bar:
        with progress_bar(None, description="parts", leave=False) as part:
            part.update(3)
        bar.set_postfix_str("compiling")
        for _ in range(60):
            bar.update()
        bar.last_print_t -= 60  # As if a minute had passed.
        for _ in range(40):
            bar.update()
    text = capsys.readouterr().err
    assert not {"\r", "\x1b"} & set(text) and text.endswith("\n")
    lines = text.splitlines()
    shown = ["0/100", "0step", "0/100", "61/100", "100/100"]
    assert len(lines) == len(shown)
    assert all(part in line for part, line in zip(shown, lines, strict=True))
    assert "compiling" in lines[2]


def test_progress_stops_when_it_is_asked_to():
    Progress().stopping()
    with pytest.raises(StoppedError):
        Progress(lambda: True).stopping()

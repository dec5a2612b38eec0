"""Stored arrays: interrupted, finished, and made with something else."""

import errno
import os

import numpy as np
import pytest

from uronet_jax.data.stored import StoredArray

MADE_WITH = {"suite": "cifar_c", "severities": (1, 2)}


def open_stored(folder, made_with=MADE_WITH, shape=(4, 2), dtype=np.uint8):
    return StoredArray(folder / "sets" / "mixed.npy", shape, dtype, made_with)


@pytest.fixture
def begun(tmp_path):
    """Returns the folder of an array of which the first block is done."""
    stored = open_stored(tmp_path)
    assert stored.done == [] and not stored.finished
    stored.array[:2] = 7
    stored.mark([0, 1])
    stored.array[2:] = 9  # Of the block in which the run is killed.
    return tmp_path


def test_goes_on_behind_the_last_block_and_ends_read_only(begun):
    stored = open_stored(begun)
    assert stored.done == [[0, 1]] and not stored.finished
    np.testing.assert_array_equal(stored.array[:2], 7)
    stored.array[2:] = 8
    stored.mark([1, 0], finished=True)
    finished = open_stored(begun)
    assert finished.done == [[0, 1], [1, 0]] and finished.finished
    np.testing.assert_array_equal(finished.array, [[7, 7], [7, 7], [8, 8], [8, 8]])
    with pytest.raises(ValueError, match="read-only"):
        finished.array[0] = 1
    np.testing.assert_array_equal(np.load(begun / "sets/mixed.npy"), finished.array)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"made_with": {**MADE_WITH, "severities": (1, 3)}},
            r"\[1, 2\].*\[1, 3\].* now",
        ),
        ({"shape": (4, 3)}, r"holds uint8 \[4, 2\], expected uint8 \[4, 3\]"),
        ({"dtype": np.uint16}, r"holds uint8 \[4, 2\], expected uint16"),
    ],
)
def test_what_was_made_otherwise_is_not_continued(begun, change, message):
    with pytest.raises(ValueError, match=message):
        open_stored(begun, **change)
    assert open_stored(begun).done == [[0, 1]]  # And nothing of it is lost.


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS has none")
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_may_be_unable_to_reserve_room(number, tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    open_stored(tmp_path).mark(0, finished=True)
    assert open_stored(tmp_path).finished


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS has none")
def test_the_disk_has_room_for_all_of_it(tmp_path, monkeypatch):
    stored = open_stored(tmp_path, shape=(1000, 1000))
    # Without holes: on a disk that is full meanwhile, to fill one is fatal.
    assert os.stat(tmp_path / "sets/mixed.npy").st_blocks * 512 >= stored.array.nbytes

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no room for .*mixed.npy, 1 MB .No space left"):
        open_stored(tmp_path / "full", shape=(1000, 1000))
    assert not any((tmp_path / "full/sets").iterdir())

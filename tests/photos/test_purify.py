"""Files in, purified files out: every stage, interruptions, wrong input."""

import csv
import dataclasses
import errno
import os
import shutil
import time
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from test_configs import save_models

from uronet_jax import loading, sharding
from uronet_jax.models import Separation, make_remover
from uronet_jax.photos import finished, purify, streams, tiles, verdicts
from uronet_jax.photos.purify import PhotoModels, load_photo_models, purify_files
from uronet_jax.progress import Progress
from uronet_jax.purifiers import make_transformation
from uronet_jax.transformations import TRANSFORMATIONS

RNG = np.random.default_rng(0)
OWN = {finished.RECORDS, ".lock", "verdicts.csv", "contact_sheet.png"}


@dataclasses.dataclass(frozen=True)
class Halving:
    """A purifier that takes half of everything away."""

    def __call__(self, variables, images, key=None, index=None):
        return Separation(images / 2, images / 2)


class Roughness(nn.Module):
    """A detector: neighbours that differ by 1/2 on average are degraded for sure."""

    @nn.compact
    def __call__(self, x, *, train=False):
        p = jnp.clip(2 * jnp.abs(jnp.diff(x[..., 0], axis=2)).mean((1, 2)), 0, 1)
        return jnp.log(jnp.stack([1 - p, p], axis=-1))


class Brightest(nn.Module):
    """A classifier: is it bright?"""

    @nn.compact
    def __call__(self, x, *, train=False):
        mean = x.mean(axis=(1, 2, 3))
        return jnp.stack([0.5 - mean, mean - 0.5], axis=-1) * 100


def loaded(role, module, shape=None, variables=None, classes=None):
    config = {"model": {"name": repr(module), "inputs": "image"}, "resolved": {}}
    return loading.LoadedModel(role, module, variables, shape, classes, config)


HALVING = PhotoModels(loaded("purifier", Halving()))


def judged(channels=1):
    return PhotoModels(
        HALVING.purifier,
        loaded("detector", Roughness(), (8, 8, channels), {}),
        loaded("classifier", Brightest(), (4, 4, channels), {}, 2),
    )


def photo(*shape):
    return RNG.integers(256, size=shape, dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def results_in(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name not in OWN
    }


def table_of(folder):
    with open(folder / "verdicts.csv", encoding="utf-8-sig", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture
def photos(tmp_path):
    """Returns a folder with five small pictures."""
    folder = tmp_path / "in"
    save(folder / "a.png", photo(16, 16, 3))
    save(folder / "b.jpg", photo(20, 9, 3))
    save(folder / "deep/c.png", photo(5, 7))
    save(folder / "deep/er/d.webp", photo(40, 200, 3), lossless=True)
    save(folder / "one.bmp", photo(1, 1, 3))
    return folder


def test_every_picture_is_purified(photos, tmp_path):
    (photos / "readme.txt").touch()
    (photos / ".hidden.png").touch()
    (photos / "Thumbs.db").touch()
    out = tmp_path / "out"
    done = purify_files([photos], out, HALVING, tile=192)
    names = ["a.png", "b.jpg", "deep/c.png", "deep/er/d.webp", "one.bmp"]
    outputs = ["a.png", "b.png", "deep/c.png", "deep/er/d.png", "one.png"]
    assert set(results_in(out)) == set(outputs)
    for name, output in zip(names, outputs, strict=True):
        before, after = pixels_of(photos / name), pixels_of(out / output)
        # An odd one lies in the middle between two levels.
        assert before.shape == after.shape
        assert np.abs(after - before / 2).max() <= 0.5
    assert (done.made, done.kept, done.failed) == (5, 0, 0)
    assert done.notes == ["files of other kinds (by suffix) left out: 1 .txt"]
    rows = table_of(out)
    assert sorted(rows) == sorted(names)
    row = rows["deep/er/d.webp"]
    assert (row["output"], row["width"], row["height"]) == (
        "deep/er/d.png",
        "200",
        "40",
    )
    assert row["degraded_probability"] == row["verdict"] == row["error"] == ""
    before = pixels_of(photos / "deep/er/d.webp") / 255
    removed = np.sqrt(np.mean((before / 2) ** 2))
    assert float(row["removed"]) == pytest.approx(removed, abs=2e-3)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 1000 and np.asarray(sheet).std() > 10


def test_a_remover_gives_what_it_gives_for_the_whole_picture(tmp_path, make_variables):
    module, shape = make_remover("blend_dcae", widths=(4, 4)), (16, 16, 3)
    variables = make_variables(module, shape)
    models = PhotoModels(loaded("purifier", module, shape, variables))
    sizes = [(121, 75), (64, 64), (16, 16), (16, 16), (70, 200)]
    images = [photo(*size, 3) for size in sizes]
    paths = [save(tmp_path / f"{i}.png", x) for i, x in enumerate(images)]
    out = tmp_path / "out"
    purify_files(paths, out, models, tile=64)
    for i, image in enumerate(images):
        whole = jnp.asarray(image, jnp.float32)[None] / 255
        expected = np.asarray(jax.jit(module.apply)(variables, whole).clean[0]) * 255
        # Half a level by rounding, and where float32 decides it otherwise.
        assert np.abs(pixels_of(out / f"{i}.png") - expected).max() < 0.51


def test_few_programs_serve_many_sizes(tmp_path, mesh):
    for i, (height, width) in enumerate(RNG.integers(1, 400, size=(60, 2)).tolist()):
        save(tmp_path / "in" / f"{i}.png", photo(height, width, 3))

    @dataclasses.dataclass(frozen=True)
    class Own(Halving):
        """Not yet compiled."""

    models = PhotoModels(loaded("purifier", Own()))
    done = purify_files([tmp_path / "in"], tmp_path / "out", models, tile=192)
    assert done.made == 60
    program = purify._compile_purifier(Own(), mesh)
    assert program._cache_size() <= 12  # Seven squares from 16 to 128, and tiles.


def test_devices_and_company_do_not_matter(photos, tmp_path):
    models = load_photo_models("gaussian_noise")
    purify_files([photos], tmp_path / "four", models, tile=96)
    one = sharding.data_mesh(jax.devices()[:1])
    purify_files([photos], tmp_path / "one", models, tile=96, mesh=one)
    results = results_in(tmp_path / "four")
    assert results == results_in(tmp_path / "one")
    shutil.copytree(photos / "deep", tmp_path / "alone/deep")
    purify_files([tmp_path / "alone"], tmp_path / "few", models, tile=96)
    for name, data in results_in(tmp_path / "few").items():
        assert data == results[name]
    purify_files([photos], tmp_path / "other", models, tile=96, seed=1)
    assert results_in(tmp_path / "other")["a.png"] != results["a.png"]
    # Each tile draws its own noise.
    flat = save(tmp_path / "flat.png", np.full((96, 300), 128, np.uint8))
    purify_files([flat], tmp_path / "flat", models, tile=96)
    noise = pixels_of(tmp_path / "flat/flat.png").astype(float) - 128
    for shift in (16, 32):
        assert (
            abs(
                np.corrcoef(noise[:, :40].flat, noise[:, shift : shift + 40].flat)[0, 1]
            )
            < 0.1
        )


# Little is held at a time


class Owner:
    """Something large."""

    def __init__(self, count):
        self.count, self.results = count, []


def test_few_tiles_are_under_way():
    under_way, most = 0, 0

    def items(owner):
        nonlocal under_way, most
        for i in range(owner.count):
            under_way += 1
            most = max(most, under_way)
            yield np.full((2, 2), i, np.float32), i

    def deliver(owner, result):
        nonlocal under_way
        under_way -= 1
        owner.results.append(result[0, 0])

    alive = weakref.WeakSet()

    def owners():
        for count in (1000, 0, 3, 1, 500, 2):
            alive.add(owner := Owner(count))
            yield owner
            del owner

    calls = []

    def call(batch, numbers):
        calls.append(len(batch))
        assert (batch[:, 0, 0] == numbers).all()
        return batch * 2

    counts = []
    for owner in streams.in_batches(owners(), items, call, deliver, lambda shape: 8):
        assert owner.results == [2 * i for i in range(owner.count)]
        counts.append(owner.count)
        assert len(alive) <= 4
    assert sorted(counts) == [0, 1, 2, 3, 500, 1000]
    # Two batches, and one that is looked at to know the last.
    assert most <= 2 * 8 + 1
    assert set(calls) == {8} and len(calls) == -(-1506 // 8)


def test_levels_become_intensities():
    parts = [np.full(1, 51, np.uint8), np.full(1, 13107, np.uint16)]
    parts.append(np.full(1, 0.2, np.float32))
    shown = []
    list(
        streams.in_batches(
            [None],
            lambda _: ((part, 0) for part in parts),
            lambda batch, _: batch,
            lambda _, result: shown.append(result),
            lambda _: 2,
        )
    )
    np.testing.assert_allclose(shown, 0.2, rtol=1e-6)


def test_what_a_detector_is_shown_is_paid_for(tmp_path, mesh):
    def price(models, height, width):
        job = purify._Job(None, {"height": height, "width": width}, [])
        return purify._Run(models, mesh, 512, 0, tmp_path)._price(job)

    detector = loaded("detector", Roughness(), (224, 224, 3), {})
    models = PhotoModels(HALVING.purifier, detector)
    for size in ((1, 1), (5000, 1), (600, 900), (9000, 9000)):
        sample = verdicts.sample_windows(np.zeros((*size, 1), np.uint8), (224, 224))
        held = size[0] * size[1] + sample.windows.size
        assert held <= price(models, *size) <= 2.5 * held + 2 * 2**16
    assert price(HALVING, 600, 900) < 700 * 900


def test_few_pictures_wait():
    started = []

    def work(price):
        started.append(price)
        time.sleep(0.001)
        return price

    prices = [1, 2, 50, 3, 4, 5, 100, 1, 1] * 3
    pulled = []

    def pulling():
        for price in prices:
            # What is done and not yet given out counts too.
            pulled.append(price)
            yield price

    with ThreadPoolExecutor(4) as pool:
        given = []
        for price in streams.bounded_map(pool, work, pulling(), lambda x: x, 10):
            given.append(price)
            held = pulled[len(given) : -1]
            assert sum(held) <= 10 or len(held) == 1
    assert given == prices


# Verdicts


def test_the_verdict_is_on_pixels_and_the_label_on_the_whole(tmp_path):
    noise = np.indices((100, 130)).sum(axis=0) % 2 * 255
    half = np.where(np.arange(130) < 65, noise, 128)
    pictures = {"noise": noise, "half": half, "flat": np.full((100, 130), 140)}
    pictures["tiny"] = np.full((1, 1), 250)
    for name, pixels in pictures.items():
        save(tmp_path / f"in/{name}.png", pixels.astype(np.uint8))
    save(
        tmp_path / "in/colour.png",
        np.stack([noise, half, noise * 0 + 9], -1).astype(np.uint8),
    )
    out = tmp_path / "out"
    purify_files([tmp_path / "in"], out, judged(), class_names=["dark", "bright"])
    rows = table_of(out)
    found = {
        name.removesuffix(".png"): float(row["degraded_probability"])
        for name, row in rows.items()
    }
    # Made as small as the detector's images, the noise would be a grey field.
    assert found["noise"] > 0.99 and found["flat"] < 0.01 and found["tiny"] < 0.01
    assert found["half"] == pytest.approx(0.5, abs=0.05)
    # Each colour on its own: one is noise, one half, one nothing.
    assert found["colour"] == pytest.approx(0.5, abs=0.05)
    assert "each colour purified as a grey image" in rows["colour.png"]["notes"]
    verdict = {name: row["verdict"] for name, row in rows.items()}
    assert (verdict["noise.png"], verdict["flat.png"]) == ("degraded", "clean")
    flat = rows["flat.png"]
    assert (flat["label_before"], flat["label_after"]) == ("bright", "dark")
    logits = 100 * (140 / 255 - 0.5) * np.array([-1, 1])
    confidence = np.exp(logits)[1] / np.exp(logits).sum()
    assert float(flat["confidence_before"]) == pytest.approx(confidence, abs=1e-3)


def test_windows_are_spread_over_the_picture():
    image = np.arange(100 * 60, dtype=np.uint16).reshape(100, 60, 1)
    sample = verdicts.sample_windows(image, (32, 32))
    corners = [[y, x] for y in (0, 23, 45, 68) for x in (0, 28)]
    assert sample.corners.tolist() == corners
    assert sample.windows.dtype == image.dtype  # Not four bytes for each of one.
    for window, (y, x) in zip(sample.windows, sample.corners, strict=True):
        np.testing.assert_array_equal(window, image[y : y + 32, x : x + 32])
    for size, most in [((4000, 3000), 256), ((9000, 33), 256), ((64, 64), 1)]:
        sample = verdicts.sample_windows(np.zeros((*size, 1), np.uint8), (32, 32), most)
        assert most // 2 <= len(sample.windows) <= most
        assert sample.corners.min() >= 0
        spans = np.ptp(sample.corners, axis=0) + 32
        assert most == 1 or (spans >= np.array(size) * 0.9).all()
    small = verdicts.sample_windows(np.arange(3, dtype=np.uint8)[None, :, None], (2, 7))
    np.testing.assert_array_equal(small.windows[0, 0, :, 0], [2, 1, 0, 1, 2, 1, 0])


def test_the_place_of_the_largest_change_is_found():
    before = photo(200, 150, 3)
    after = before.copy()
    after[130:134, 140:145] ^= 128
    change = verdicts.measure_change(before, after)
    assert (change.row, change.column) == (128 + 32, 128 + 11)
    expected = np.sqrt(np.mean((before / 255 - after / 255) ** 2))
    assert change.rms == pytest.approx(expected, rel=1e-5)


def test_trained_models_judge_as_a_defence_does(tmp_path, make_variables):
    folders = save_models(tmp_path / "runs", make_variables)
    images = photo(3, 32, 32, 3)
    paths = [save(tmp_path / f"in/{i}.png", x) for i, x in enumerate(images)]
    models = load_photo_models(*folders.values())
    out = tmp_path / "out"
    purify_files(paths, out, models)
    prediction = loading.load_defense(*folders.values())(images)
    rows = table_of(out)
    for i, path in enumerate(paths):
        row = rows[path.name]
        probability = prediction.degraded_probability[i]
        # Four decimals in the table.
        assert float(row["degraded_probability"]) == pytest.approx(
            probability, abs=1e-4
        )
        clean = prediction.clean[i] * 255
        assert np.abs(pixels_of(out / path.name) - clean).max() < 0.51
        assert row["label_after"] == str(prediction.logits[i].argmax())
    with pytest.raises(ValueError, match="holds a classifier, expected a detector"):
        load_photo_models("median", folders["classifier"])
    detector = models.detector
    behind = detector.config["resolved"] | {"purifier": "another"}
    other = dataclasses.replace(detector, config=detector.config | {"resolved": behind})
    with pytest.raises(ValueError, match="learned behind another purifier, another"):
        PhotoModels(models.purifier, other)
    small = dataclasses.replace(detector, image_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="choose models of one data set"):
        PhotoModels(models.purifier, small)


# Again


def times_in(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OWN
    }


def test_what_is_finished_is_not_made_again(photos, tmp_path):
    out, models = tmp_path / "out", judged()
    first = purify_files([photos], out, models)
    before, times = results_in(out), times_in(out)
    again = purify_files([photos], out, models)
    assert (again.made, again.kept) == (0, 5) and times_in(out) == times
    assert again.rows == first.rows
    # Another threshold is another verdict on the same pictures.
    strict = purify_files([photos], out, models, threshold=1.0)
    assert strict.made == 0 and {row["verdict"] for row in strict.rows} == {"clean"}
    # A changed picture, a lost result and a record that was cut off.
    save(photos / "a.png", photo(16, 16, 3))
    (out / "b.png").unlink()
    records = out / finished.RECORDS
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    cut = purify_files([photos], out, models)
    assert (cut.made, cut.kept) == (3, 2)
    assert purify_files([photos], out, models).made == 0
    changed = results_in(out)
    assert {name for name in before if before[name] != changed[name]} == {"a.png"}
    # Other settings, other models: all anew.
    assert purify_files([photos], out, models, tile=224).made == 5
    assert purify_files([photos], out, HALVING, tile=224).made == 5


def test_an_interrupted_run_goes_on(photos, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    done = purify_files([photos], whole, judged())
    begun, assembly = {}, purify.tiles.Assembly  # Layouts: each picture has its own.
    monkeypatch.setattr(
        purify.tiles,
        "Assembly",
        lambda layout, *x: begun.update({id(layout): layout}) or assembly(layout, *x),
    )
    for moment in range(5):
        begun.clear()
        out = tmp_path / f"out{moment}"
        # All are read by then: they are small, and there is room for them.
        stop = Progress(lambda m=moment: len(begun) >= m, shown=False)
        part = purify_files([photos], out, judged(), progress=stop)
        assert (part.made, part.left, part.failed) == (moment, 5 - moment, 0)
        assert not (out / "contact_sheet.png").exists()
        assert len(table_of(out)) == len(results_in(out)) == moment
        again = purify_files([photos], out, judged())
        assert (again.kept, again.rows) == (moment, done.rows)
        assert results_in(out) == results_in(whole)


def test_it_stops_while_heads_are_read(photos, tmp_path, monkeypatch):
    looks, look = [], purify.pictures.look_at_picture
    monkeypatch.setattr(
        purify.pictures, "look_at_picture", lambda x: looks.append(x) or look(x)
    )
    asked = iter(range(99))
    stop = Progress(lambda: next(asked) >= 2, shown=False)
    done = purify_files([photos], tmp_path / "out", HALVING, progress=stop)
    assert (len(looks), done.left) == (2, 5)


def test_settings_there_and_back(photos, tmp_path, monkeypatch):
    """Of a run that dies before its record, no pixels stay under another's."""
    out, coarse = tmp_path / "out", load_photo_models("bit_depth:bits=2")
    first = purify_files([photos], out, HALVING)
    expected = results_in(out)

    def add(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(finished.FinishedPictures, "add", add)
    with pytest.raises(OSError, match="No space left"):
        purify_files([photos], out, coarse)
    monkeypatch.undo()
    assert results_in(out) != expected
    again = purify_files([photos], out, HALVING)
    assert again.kept == 0 and results_in(out) == expected
    assert again.rows == first.rows
    # The same of a picture that changed, and changed back.
    before, times = (photos / "a.png").read_bytes(), (photos / "a.png").stat()
    save(photos / "a.png", photo(16, 16, 3))
    monkeypatch.setattr(finished.FinishedPictures, "add", add)
    with pytest.raises(OSError, match="No space left"):
        purify_files([photos], out, HALVING)
    monkeypatch.undo()
    (photos / "a.png").write_bytes(before)
    os.utime(photos / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert purify_files([photos], out, HALVING).made == 1
    assert results_in(out) == expected


def test_results_of_other_pictures_are_not_overwritten(photos, tmp_path):
    save(tmp_path / "other/a.png", photo(3, 3, 3))
    purify_files([photos], tmp_path / "out", HALVING)
    before = results_in(tmp_path / "out")
    with pytest.raises(
        ValueError, match="out/a.png was made of .*in/a.png, and .*othe"
    ):
        purify_files([tmp_path / "other"], tmp_path / "out", HALVING)
    assert results_in(tmp_path / "out") == before
    # More pictures may come.
    save(tmp_path / "more/z.png", photo(3, 3, 3))
    assert purify_files([tmp_path / "more"], tmp_path / "out", HALVING).made == 1
    assert purify_files([photos], tmp_path / "out", HALVING).kept == 5


def test_nothing_stale_stays(photos, tmp_path):
    out = tmp_path / "out"
    purify_files([photos], out, HALVING)
    (photos / "a.png").write_text("no picture")
    purify_files([photos], out, HALVING)
    assert sorted(results_in(out)) == [
        "b.png",
        "deep/c.png",
        "deep/er/d.png",
        "one.png",
    ]
    # Other settings, which one cannot be purified with; others are named otherwise.
    done = purify_files([photos], out, load_photo_models("resize_pad"), tile=96)
    assert done.failed == 2 and "deep/er/d.png" not in results_in(out)
    purify_files([photos], out, HALVING, same_suffix=True)
    expected = ["b.jpg", "deep/c.png", "deep/er/d.webp", "one.bmp"]
    assert sorted(results_in(out)) == expected
    for path in photos.rglob("*.*"):
        path.write_text("no picture")
    done = purify_files([photos], out, HALVING)
    assert done.failed == 5 and not results_in(out)
    assert not (out / "contact_sheet.png").exists()


def test_a_full_disk_leaves_finished_pictures(photos, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left on device.*finished pictures are"):
        purify_files([photos], out, HALVING)
    monkeypatch.undo()
    partial = results_in(out)
    table = {row["output"] for row in table_of(out).values()}
    assert table <= set(partial)  # Of this run, not of one before.
    whole = tmp_path / "whole"
    purify_files([photos], whole, HALVING)
    complete = results_in(whole)
    assert 0 < len(partial) < 5
    assert all(complete[name] == data for name, data in partial.items())
    assert purify_files([photos], out, HALVING).failed == 0
    assert results_in(out) == complete


# Wrong input


def test_bad_pictures_have_a_row_and_the_others_go_on(photos, tmp_path):
    (photos / "empty.png").touch()
    (photos / "gone.png").symlink_to(photos / "nothing")
    data = (photos / "a.png").read_bytes()
    (photos / "cut.png").write_bytes(data[: len(data) // 2])
    frames = [Image.fromarray(photo(4, 4)) for _ in range(3)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    done = purify_files([photos], tmp_path / "out", judged())
    errors = {row["file"]: row["error"] for row in done.rows if row["error"]}
    assert errors == {
        "empty.png": "empty file",
        "gone.png": "No such file or directory",
        "cut.png": "image file is truncated",
        "moving.gif": "3 frames: only still pictures are purified",
    }
    assert (done.made, done.failed) == (5, 4)
    assert table_of(tmp_path / "out")["cut.png"]["output"] == ""
    # They are tried again, and only they.
    save(photos / "cut.png", photo(3, 3))
    again = purify_files([photos], tmp_path / "out", judged())
    assert (again.made, again.kept, again.failed) == (1, 5, 3)


def test_what_a_purifier_cannot_do_is_said_of_the_picture(photos, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Breaking:
        def __call__(self, variables, images, key=None, index=None):
            clean = images / jnp.where(images.max() > 0.5, 0.0, 1.0) * 1.0
            return Separation(clean, images)

    save(photos / "black.png", np.zeros((64, 64, 3), np.uint8))
    models = PhotoModels(loaded("purifier", Breaking()))
    rows = purify_files([photos], tmp_path / "out", models).rows
    errors = {row["file"]: row["error"] for row in rows}
    assert errors["black.png"] is None
    assert errors["a.png"] == "the purifier gave numbers that are not finite"


def test_what_looks_at_the_whole_picture_is_shown_just_that(tmp_path):
    for name in ("resize_pad", "wavelet"):
        models, image = load_photo_models(name), photo(20, 37, 3)
        path = save(tmp_path / "a.png", image)
        purify_files([path], tmp_path / name, models)
        number = np.array([zlib.crc32(b"a.png") & 0x7FFFFFFF])
        whole = jnp.asarray(image, jnp.float32)[None] / 255
        found = models.purifier.module(None, whole, jax.random.key(0), number).clean
        expected = np.asarray(found[0]) * 255
        # Half a level by rounding, and where float32 decides it otherwise.
        assert np.abs(pixels_of(tmp_path / name / "a.png") - expected).max() < 0.51


# Those that work by tiles are in test_tiles.
WHOLE = [x for x in TRANSFORMATIONS if not tiles.works_by_tiles(make_transformation(x))]


@pytest.mark.parametrize("name", WHOLE)
def test_what_looks_at_the_whole_picture_is_not_shown_tiles(name, tmp_path):
    purifier = make_transformation(name)
    save(tmp_path / "in/large.png", photo(96, 480, 3))
    models = PhotoModels(loaded("purifier", purifier))
    (row,) = purify_files([tmp_path / "in"], tmp_path / "out", models, tile=96).rows
    assert "depends on the whole picture, and it takes up to 96 pixels" in row["error"]


def test_a_shape_that_a_purifier_refuses_is_said_of_the_picture(photos, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class OfColour(Halving):
        def __call__(self, variables, images, key=None, index=None):
            if images.shape[-1] != 3:
                raise ValueError("made for three colours")
            return super().__call__(variables, images)

    models = PhotoModels(loaded("purifier", OfColour()))
    done = purify_files([photos], tmp_path / "out", models)
    errors = {row["file"]: row["error"] for row in done.rows if row["error"]}
    assert errors == {"deep/c.png": "made for three colours"} and done.made == 4


def test_not_a_number_in_a_tile_of_many(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Undefined(Halving):
        def __call__(self, variables, images, key=None, index=None):
            return Separation(jnp.where(images > 0.9, jnp.nan, images), images)

    save(tmp_path / "in/large.png", np.full((192, 4000), 255, np.uint8))
    save(tmp_path / "in/small.png", np.full((9, 9), 9, np.uint8))
    models = PhotoModels(loaded("purifier", Undefined()))
    done = purify_files([tmp_path / "in"], tmp_path / "out", models, tile=192)
    large, small = done.rows
    assert large["error"] == "the purifier gave numbers that are not finite"
    assert small["error"] is None and (done.made, done.failed) == (1, 1)


class Undecided(nn.Module):
    """Knows nothing of dark pictures."""

    @nn.compact
    def __call__(self, x, *, train=False):
        mean = x.mean(axis=(1, 2, 3))
        return jnp.stack([mean, jnp.where(mean < 0.1, jnp.nan, mean)], axis=-1)


@pytest.mark.parametrize("role", ["detector", "classifier"])
def test_who_gives_no_number_has_no_verdict(role, tmp_path):
    save(tmp_path / "in/dark.png", np.ones((9, 9), np.uint8))
    save(tmp_path / "in/light.png", np.full((9, 9), 200, np.uint8))
    judge = loaded(role, Undecided(), (8, 8, 1), {}, 2)
    models = dataclasses.replace(HALVING, **{role: judge})
    done = purify_files([tmp_path / "in"], tmp_path / "out", models)
    dark, light = done.rows
    assert dark["error"] == "detector or classifier gave numbers that are not finite"
    assert dark["verdict"] is None and light["error"] is None
    assert set(results_in(tmp_path / "out")) == {"light.png"}


def test_a_name_that_cannot_be_written_stops_nothing(tmp_path):
    long = "n" * 248  # With its suffix as long as a name may be.
    for name in (f"{long}.png", f"{long}x.jp2", "x.jpg", "x.png/y.png", "z.png"):
        save(tmp_path / "in" / name, photo(4, 4, 3))
    done = purify_files([tmp_path / "in"], tmp_path / "out", HALVING)
    errors = [row["file"] for row in done.rows if row["error"]]
    assert done.made == 4 and len(errors) == 1 and errors[0].startswith("x.")
    assert f"{long}.png" in results_in(tmp_path / "out")


def test_kinds_with_loss_are_not_written(photos, tmp_path):
    save(photos / "e.gif", photo(4, 4))
    done = purify_files([photos], tmp_path / "out", HALVING, same_suffix=True)
    errors = {row["file"]: row["error"] for row in done.rows if row["error"]}
    assert errors == {"e.gif": ".gif files are not written: leave out same_suffix"}


def test_what_is_not_looked_into_is_said(photos, tmp_path, monkeypatch):
    save(tmp_path / "else/f.png", photo(2, 2))
    (photos / "link").symlink_to(tmp_path / "else")
    found, notes = purify.find_pictures([photos], tmp_path / "out")
    assert len(found) == 5
    assert notes == [f"folders behind links left out (name them): {photos / 'link'}"]
    # A pattern means folders too, and each file counts once.
    (photos / "deep/note.txt").touch()
    found, notes = purify.find_pictures([f"{photos}/*"], tmp_path / "out")
    names = ["a.png", "b.jpg", "deep/c.png", "deep/er/d.webp", "link/f.png", "one.bmp"]
    assert [x.name for x in found] == names
    found, notes = purify.find_pictures([f"{photos}/deep/**"], tmp_path / "out")
    assert [x.name for x in found] == ["c.png", "er/d.webp"]
    assert notes == ["files of other kinds (by suffix) left out: 1 .txt"]
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("er"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="deep/er"):
        purify.find_pictures([photos], tmp_path / "out")


def test_files_folders_and_patterns(photos, tmp_path):
    def names(*inputs, **options):
        found, _ = purify.find_pictures(inputs, tmp_path / "out", **options)
        return [(x.name, x.output) for x in found]

    deep = [("c.png", "c.png"), ("er/d.webp", "er/d.png")]
    assert names(photos / "deep") == deep
    assert names(f"{photos}/deep/**/*") == deep
    assert names(f"{photos}/*/*.png") == [("deep/c.png", "deep/c.png")]
    assert names(photos / "b.jpg", same_suffix=True) == [("b.jpg", "b.jpg")]
    # Each once, however often it is named.
    assert names(photos / "deep/c.png", photos / "deep") == deep
    # A name is taken as it is, if there is such a file or folder.
    odd = save(photos / "[b]*.png", photo(2, 2))
    assert names(odd) == [("[b]*.png", "[b]*.png")]
    save(tmp_path / "of [2020]/e.png", photo(2, 2))
    assert names(f"{tmp_path}/of [2020]/*.png") == [("e.png", "e.png")]


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / "in" / os.fsdecode(b"M\xfcller.png")  # Of another encoding.
    try:
        save(path, photo(2, 2))
    except OSError:
        pytest.skip("this file system takes no such name")
    for made in (1, 0):
        done = purify_files([tmp_path / "in"], tmp_path / "out", HALVING)
        assert (done.made, done.kept, done.failed) == (made, 1 - made, 0)
    assert (tmp_path / "out" / path.name).exists()
    assert b"M\\udcfcller.png" in (tmp_path / "out/verdicts.csv").read_bytes()


def test_the_command(photos, tmp_path, start):
    def run(*arguments):
        process = start("-m", "launch.purify", f"--out={tmp_path / 'out'}", *arguments)
        text, errors = process.communicate()
        return process.returncode, text, errors

    status, text, _ = run(str(photos), "--purifier=median:size=3")
    assert status == 0 and "purified 5 pictures, 0 failed" in text
    assert len(results_in(tmp_path / "out")) == 5
    (photos / "bad.png").touch()
    status, text, errors = run(str(photos), "--purifier=median:size=3")
    assert status == 1 and "failed: bad.png: empty file" in errors
    assert "purified 0 pictures (5 were finished before), 1 failed" in text
    assert "wrote verdicts.csv and contact_sheet.png to" in text
    status, _, errors = run("nowhere", "--purifier=median")
    assert (status, errors) == (2, "error: no such file or folder: nowhere\n")


def test_the_command_is_stopped(photos, tmp_path, start):
    (photos / "bad.png").touch()
    # It is asked for each of six heads, before each of five pictures is read, before
    # one is purified, and then it has come.
    program = """
import itertools, signal
from launch import cli, purify
from uronet_jax.progress import StopSignal
asked = itertools.count()
def stop(self):
    self.received = "SIGTERM" if next(asked) > 11 else None
    return bool(self.received)
StopSignal.__call__ = stop
cli.run(purify.main, takes_arguments=True)
"""
    options = [f"--out={tmp_path / 'out'}", "--purifier=bit_depth"]
    process = start("-c", program, str(photos), *options)
    text, errors = process.communicate()
    assert process.returncode == 143
    assert "failed: bad.png: empty file" in errors
    assert "purified 1 pictures, 1 failed" in text
    assert "wrote verdicts.csv to" in text and "4 are left; run the same" in text

# SPDX-License-Identifier: Apache-2.0
"""The data set itself: numbering, fingerprints, the cache, threads."""

import hashlib
import threading

import numpy as np
import pytest

from analyzer.data import open_data
from analyzer.data.cache import SampleCache
from analyzer.errors import ConfigError
from analyzer.records import DataInfo, TensorSpec

X = (TensorSpec("x", "float32", (1, 2)),)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    return str(tmp_path / "a.npy")


def test_samples_are_numbered(path):
    """Outside 0 .. count - 1 there is nothing."""
    data = open_data(path, X, role="analysis")
    assert len(data) == data.count == len(list(data)) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError):
            data[index]


def test_limit_takes_the_first(path):
    """`available` still tells how many there are."""
    data = open_data(path, X, role="analysis", limit=2)
    assert (data.count, data.available) == (2, 3)
    with pytest.raises(IndexError):
        data[2]
    with pytest.raises(ConfigError, match=r"number of samples is 0\. Expected at least 1"):
        open_data(path, X, role="analysis", limit=0)


def test_the_fingerprint_follows_its_definition(path):
    """SHA-256 over the samples' own digests: of name, type, shape and bytes."""
    data = open_data(path, X, role="analysis")
    parts = [
        hashlib.sha256(b"x:<f4:(1, 2);" + np.array(row, dtype="<f4").tobytes()).digest()
        for row in ([4, 5], [0, 1])
    ]
    assert data.fingerprint([2, 0]) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_fingerprint_is_of_content_and_order(path, tmp_path):
    """The same numbers from another file are the same data; another order is not."""
    np.savez(tmp_path / "b.npz", np.arange(6, dtype=np.float64).reshape(3, 2))
    data = open_data(path, X, role="analysis")
    other = open_data(str(tmp_path / "b.npz"), X, role="calibration")
    assert data.fingerprint() == other.fingerprint() == data.fingerprint([0, 1, 2])
    assert data.fingerprint([0, 1]) != data.fingerprint([1, 0])


def test_info_is_the_record_of_what_was_used(path):
    """The whole record, as reports print it."""
    data = open_data(path, X, role="calibration")
    assert data.info("calibration", "every second", [0, 2]) == DataInfo(
        role="calibration",
        count=2,
        available=3,
        origin=path,
        sha256=data.fingerprint([0, 2]),
        shapes={"x": (1, 2)},
        preprocessing="",
        skipped=(),
        selection="every second",
    )


def test_samples_cannot_be_changed(path):
    """What is handed out again must not be written to, and a caller's dict is his own."""
    data = open_data(path, X, role="analysis")
    sample = data[0]
    with pytest.raises(ValueError, match="read-only"):
        sample["x"][0, 0] = 9
    sample["x"] = np.zeros(1)
    assert data[0]["x"].tolist() == [[0, 1]]


def test_samples_are_read_once_while_they_are_kept(path, monkeypatch):
    """A second pass over few samples reads no file."""
    data = open_data(path, X, role="analysis")
    first = [sample["x"] for sample in data]
    monkeypatch.setattr(np, "load", None)
    assert all(a["x"] is b for a, b in zip(data, first, strict=True))


def test_the_cache_drops_what_was_used_longest_ago():
    """Three samples of 8 bytes do not fit into 16; a larger one is not kept at all."""
    cache = SampleCache(16)
    for index in (0, 1):
        cache.put(index, {"x": np.zeros(2, np.float32)})
    cache.get(0)
    cache.put(2, {"x": np.zeros(2, np.float32)})
    assert [cache.get(index) is not None for index in (0, 1, 2)] == [True, False, True]
    cache.put(3, {"x": np.zeros(5, np.float32)})
    assert cache.get(3) is None
    assert cache.used_bytes == 16
    cache.clear()
    assert (cache.get(0), cache.used_bytes) == (None, 0)


def test_threads_may_read_at_once(tmp_path, monkeypatch):
    """Two threads reading a compressed file, with hardly any cache, get the right samples."""
    monkeypatch.setattr("analyzer.data.dataset.CACHE_BYTES", 16)
    np.savez_compressed(tmp_path / "a.npz", np.arange(400, dtype=np.float32).reshape(200, 2))
    data = open_data(str(tmp_path / "a.npz"), X, role="analysis")
    wrong = []

    def work():
        wrong.extend(i for i in range(200) if data[i]["x"][0, 0] != 2 * i)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data.close()
    assert wrong == []

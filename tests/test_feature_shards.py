"""Shards and their records: what is read is whole, at whatever moment a writer was killed."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from avchat import feature_shards
from avchat.data import DataError
from avchat.feature_shards import ShardReader, ShardWriter, read_records


def write(folder: Path, before: int = 0) -> None:
    """Write three shards of one record each; be killed at the so manieth look at the disk."""
    looks = 0

    def fsync(number: int) -> None:
        nonlocal looks
        looks += 1
        if looks == before:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync
    feature_shards.SHARD_RECORDS = 1
    with ShardWriter(folder, lambda record: None) as writer:
        for k in range(3):
            writer.add({"k": k}, {"x": torch.full((4,), k)})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signal there kills at once")
@pytest.mark.parametrize("moment", range(1, 8))
def test_whenever_it_is_killed_what_is_there_is_whole(moment: int, tmp_path: Path) -> None:
    # forked from a server without threads: a fork of this process may wait for locks of others
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["avchat.feature_shards"])
    child = server.Process(target=write, args=(tmp_path, moment))
    child.start()
    child.join()
    assert child.exitcode == (-signal.SIGKILL if moment < 7 else 0)
    records, reader = list(read_records(tmp_path)), ShardReader(tmp_path, most=1)
    reader.sums.update(record["sum"] for record in records if "sum" in record)
    records = [record for record in records if "sum" not in record]
    assert [record["k"] for record in records] == list(range(moment // 2))
    held = [reader.tensors(r["shard"], r["tensors"])["x"] for r in records]
    assert [tensor.tolist() for tensor in held] == [[k] * 4 for k in range(moment // 2)]


def test_a_shard_that_was_changed_is_not_read(tmp_path: Path) -> None:
    """Zeros in its middle leave a shard that opens."""
    with ShardWriter(tmp_path, lambda record: None) as writer:
        writer.add({"k": 0}, {"x": torch.zeros(4)})
    records = list(read_records(tmp_path))
    [row] = [record for record in records if "sum" not in record]
    path = tmp_path / row["shard"]
    data = bytearray(path.read_bytes())
    data[-8:] = b"\x01" * 8
    path.write_bytes(data)
    assert ShardReader(tmp_path).tensors(row["shard"], row["tensors"])
    reader = ShardReader(tmp_path)
    reader.sums.update(record["sum"] for record in records if "sum" in record)
    with pytest.raises(DataError, match="damaged .*not those that were written"):
        reader.tensors(row["shard"], row["tensors"])


def test_a_torn_line_takes_no_other_along(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, lambda record: None) as writer:
        writer.add({"k": 1})
        writer.flush()
        [index] = tmp_path.glob("index-*")
        index.write_text(index.read_text() + '{"k": 2, "pa')
        writer.add({"k": 3})
    assert [record["k"] for record in read_records(tmp_path)] == [1, 3]


def test_what_a_killed_process_left_is_removed_in_time(tmp_path: Path) -> None:
    fresh, old = tmp_path / "shard-a.torn", tmp_path / "shard-b.torn"
    for torn in (fresh, old):
        torn.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    ShardWriter(tmp_path, lambda record: None)
    assert fresh.exists() and not old.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    writer = ShardWriter(tmp_path, lambda record: None)
    writer.add({"k": 1}, {"x": torch.zeros(100_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match="cannot be written"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []

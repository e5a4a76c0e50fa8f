import shutil
from types import SimpleNamespace

import pytest

from jaxft.data import plan
from jaxft.data.plan import Keep, Plan, gigabytes, plan_input
from jaxft.errors import UserError

GB = 10**9


@pytest.fixture(autouse=True)
def a_machine(monkeypatch):
    """100 GB free on the disk, 16 GB in memory."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 * GB))
    monkeypatch.setattr(plan, "free_host_memory", lambda: 16 * GB)


@pytest.mark.parametrize(
    ("set_bytes", "device_bytes", "limit", "cached", "way", "why"),
    [
        (2 * GB, 8 * GB, 50 * GB, True, "resident", "2.0 GB of decoded images fit into a quarter of the 8.0 GB free"),
        (2 * GB + 1, 8 * GB, 50 * GB, True, "mmap", "are more than a quarter of the 8.0 GB free on a device"),
        (49 * GB, 8 * GB, 50 * GB, True, "mmap", "49.0 GB"),
        (
            51 * GB,
            8 * GB,
            50 * GB,
            True,
            "stream",
            "51.0 GB of decoded images are more than the 50.0 GB of --cache-",
        ),
        (101 * GB, 900 * GB, 500 * GB, True, "stream", "are more than the 100.0 GB free in "),
        (8 * GB, 8 * GB, 0, False, "mmap", "a quarter"),
        (9 * GB, 80 * GB, 0, False, "stream", "more than the 8.0 GB that half of the free memory holds"),
    ],
)
def test_the_way_goes_by_size(set_bytes, device_bytes, limit, cached, way, why, tmp_path):
    chosen = plan_input("auto", set_bytes, device_bytes, Keep(tmp_path / "cache" if cached else None, limit))
    assert chosen.way == way
    assert why in chosen.why


def test_older_files_in_the_cache_can_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=GB))
    assert plan_input("auto", GB + 1000, GB, Keep(tmp_path, 50 * GB)).way == "stream"
    (tmp_path / "old.npy").write_bytes(bytes(1000))
    assert plan_input("auto", GB + 1000, GB, Keep(tmp_path, 50 * GB)).way == "mmap"


def test_what_is_asked_for_is_done(tmp_path):
    assert plan_input("stream", 5_000_000, GB, Keep(tmp_path, 0)) == Plan(
        "stream", "--input stream was given (5.0 MB of decoded images)"
    )
    assert plan_input("resident", GB, GB, Keep(tmp_path, 0)).way == "resident"
    with pytest.raises(UserError, match=r"--input resident: 1.0 GB of decoded images, and 0.9 GB free on a device"):
        plan_input("resident", GB, 900_000_000, Keep(tmp_path, 0))


def test_gigabytes():
    assert [gigabytes(size) for size in (0, 1_550_000, 99_960_000, 2_340_000_000)] == [
        "0.0 MB",
        "1.6 MB",
        "100.0 MB",
        "2.3 GB",
    ]

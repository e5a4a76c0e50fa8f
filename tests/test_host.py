import pytest

from jaxft import host, parallel
from jaxft.host import free_host_memory, num_cores


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert num_cores() == 3


@pytest.mark.parametrize(("limit", "expected"), [("max", None), ("3000", 2000), ("500", 0)])
def test_a_control_groups_limit_counts(limit, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    unlimited = free_host_memory()
    assert unlimited > 10**8
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_host_memory() == expected if expected is not None else free_host_memory() > 10**8


class Device:
    def __init__(self, limit: int | None, used: int = 0):
        self.stats = limit and {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self.stats


def test_free_memory_is_what_the_fullest_device_says_or_a_share_of_the_hosts(monkeypatch):
    assert parallel.free_memory([Device(1000, 100), Device(1000, 300)]) == 700
    monkeypatch.setattr(parallel, "free_host_memory", lambda: 9000)
    assert parallel.free_memory([Device(None)] * 3) == 3000

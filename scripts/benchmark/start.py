"""How soon a command's first request arrives, against the least that Ray needs: scripts/bench start [REPEATS [WAY ...]]

Three ways to start, each beside a bare script (`bare_start.py`) that is started in the same way: `ray.init`, one actor,
and one request in that actor's first call. The two take turns; the first two ways use one head that is up before.

    submit     `stillhouse submit --ship code`   `ray job submit --working-dir FOLDER -- python bare_start.py URL`
    address    `stillhouse run --address`        `python bare_start.py URL ADDRESS`
    alone      `stillhouse run`                  `python bare_start.py URL local`

The clock runs from just before the command is started until the server has its first request, both by the server's
clock. CPU is that of all processes in that time, the head's and the server's too. What is shipped differs each time,
because the server's URL is in it. The bar, for the first two ways: the median for Stillhouse is at most 1.2 times the
bare script's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmark.bars import judged
from benchmark.contestants import Job, recipe_of
from benchmark.jobs import ENV, Head, cluster
from benchmark.process_tree import TICKS, descendants
from benchmark.server import serving, stats
from benchmark.trial import write_prompts
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.simulator import SimulatorSettings

REPEATS, BAR = 5, 1.2
POLL_S = 0.1
SETTLE_S = 3.0
"""Between two starts, the head replaces the idle processes that the last one used."""
TIMEOUT_S = 300.0
_BIN = Path(sys.executable).parent
_SCRIPT = Path(__file__).with_name("bare_start.py")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to start, with the commands of both."""

    name: str
    ours: Callable[[Job, Head], list[str]]
    bare: Callable[[Job, Head], list[str]]
    on_head: bool = True
    """It uses a head that is up before; the bar is for these ways."""


@dataclass(frozen=True, slots=True)
class Start:
    """The cost of one start."""

    first_s: float
    cpu_s: float


def _stillhouse(job: Job, *command: str) -> list[str]:
    return [str(_BIN / "stillhouse"), *command, "--json", str(recipe_of(job, job.prompts, name="dataset", workers=1))]


def _submit_bare(job: Job, head: Head) -> list[str]:
    folder = job.folder / "shipped"
    folder.mkdir()
    shutil.copy(_SCRIPT, folder)
    (folder / "url").write_text(job.url)  # so that the package is new to the cluster, as a recipe's is
    command = [str(_BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", str(folder)]
    return [*command, "--", "python", _SCRIPT.name, job.url]


WAYS = (
    Way(
        "submit",
        ours=lambda job, head: _stillhouse(job, "submit", "--ship", "code", "--address", head.dashboard),
        bare=_submit_bare,
    ),
    Way(
        "address",
        ours=lambda job, head: _stillhouse(job, "run", "--quiet", "--address", head.gcs),
        bare=lambda job, head: [sys.executable, str(_SCRIPT), job.url, head.gcs],
    ),
    Way(
        "alone",
        ours=lambda job, head: _stillhouse(job, "run", "--quiet"),
        bare=lambda job, head: [sys.executable, str(_SCRIPT), job.url, "local"],
        on_head=False,
    ),
)


def main() -> int:
    """Print the medians and their ratios; 1 if a bar is missed."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    wanted = sys.argv[2:]
    return max(_compared(way, repeats) for way in WAYS if not wanted or way.name in wanted)


def _compared(way: Way, repeats: int) -> int:
    starts: dict[str, list[Start]] = {"stillhouse": [], "bare": []}
    with _head(way) as head:
        for number in range(repeats):
            for title, command in (("stillhouse", way.ours), ("bare", way.bare)):
                start = _started(command, head)
                starts[title].append(start)
                print(
                    f"{way.name} {number + 1}: {title}, first request after {start.first_s:.2f} s, CPU "
                    f"{start.cpu_s:.2f} s, load {os.getloadavg()[0]:.1f}",
                    file=sys.stderr,
                )
    ours_s, bare_s = (median(start.first_s for start in each) for each in starts.values())
    ours_cpu_s, bare_cpu_s = (median(start.cpu_s for start in each) for each in starts.values())
    figure = (
        f"{way.name}: first request after {ours_s:.2f} s, bare {bare_s:.2f} s: {ours_s / bare_s:.2f}x; CPU "
        f"{ours_cpu_s:.2f} s, bare {bare_cpu_s:.2f} s: {ours_cpu_s / bare_cpu_s:.2f}x; load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    if way.on_head:
        return judged(f"{figure}; the bar is {BAR}x", met=ours_s <= BAR * bare_s)
    print(figure)
    return 0


@contextmanager
def _head(way: Way) -> Iterator[Head]:
    if way.on_head:
        with cluster(cpus=os.cpu_count() or 1) as head:
            _warm_up(head)
            yield head
    else:
        yield Head("", "")


def _warm_up(head: Head) -> None:
    """Wait until the head starts jobs, which is later than it takes them."""
    deadline = time.monotonic() + TIMEOUT_S
    submit = [str(_BIN / "ray"), "job", "submit", "--address", head.dashboard]
    command = [*submit, "--", "python", "-c", "import ray; ray.init()"]
    while subprocess.run(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() > deadline:
            raise SystemExit("expected a Ray head that starts jobs, got none")


def _started(command: Callable[[Job, Head], list[str]], head: Head) -> Start:
    """Run the command to its end; what its start cost."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prompts, log = folder / "prompts.jsonl", folder / "log"
        write_prompts(prompts, count=1)
        with serving(SimulatorSettings()) as url, log.open("wb") as output:
            words = command(Job(prompts, url, folder, Limits(in_flight=1), 512, 1), head)
            began_s, ticks = stats(url)["uptime_s"], descendants()
            process = subprocess.Popen(words, env=ENV, cwd=folder, stdout=output, stderr=output)
            while not stats(url)["served"] and process.poll() is None:
                time.sleep(POLL_S)
            cpu_s = sum(used - ticks.get(pid, 0) for pid, used in descendants().items()) / TICKS
            code, counted = process.wait(TIMEOUT_S), stats(url)
        if code != 0 or counted["served"] != 1:
            raise SystemExit(
                f"{words}: expected exit code 0 and 1 request, got {code} and {counted['served']}: {log.read_text()}"
            )
    time.sleep(SETTLE_S)
    return Start(counted["first_at_s"] - began_s, cpu_s)


if __name__ == "__main__":
    sys.exit(main())

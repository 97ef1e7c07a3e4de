"""Runs in batches of which everything is killed (kill -9) at each step of a batch's life, and that are resumed.

    python -m tests.faults.batches --prompts 2000

resumes each once on the same cluster, and once on another that shares only the store. At the simulator there must be
one batch per intent, and every prompt must be answered once; then it prints a table, or ends with 1. With `--judge` the
teacher is asked online and a judge in batches, and no verdict may be paid for twice.
A batch whose creation never reached the provider counts as such only after 15 minutes, which are waited for.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as ds
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from batch_recipes import TERMS, teacher_of
from batch_wire import call_of
from builders import questions, write_source
from faults.history import check, check_judged
from faults.nemesis import last_line
from faults.runs import start_run
from faults.stops import Between, Stop, standing_before
from processes import kill_all
from s3_server import S3Server, rclone_s3
from waiting import wait_until

from stillhouse.gen import simulator
from stillhouse.gen.dataset.batch_intents import intent_id
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.teachers.transport import HttpRequest
from stillhouse.schemas.simulator import SimulatorBatches, SimulatorSettings

APIS = ["openai-chat", "anthropic", "gemini", "bedrock"]
CHUNKS = 4
"""Chunks of a run, each with one batch. It is killed at the second, so others are at other steps."""
PARKED_S = 3.0
"""A run is killed this long after its last chunk was parked: by then its queue knows."""
STARTS = 4
"""Runs that may be needed, because Ray does not start on a machine that is too busy."""
WITHIN_S = 1800.0
"""The wait for a batch that counts as never created is half of this."""
ONLINE = 8
"""Requests in flight to the teacher of a judge."""
TEACHER, JUDGE = "0", "c1"
"""Who is asked in batches, as intents name them."""


class Step(NamedTuple):
    """Where everything is killed."""

    name: str
    at: str
    """`store` or `provider`: which of them gets the request."""
    stop: Stop
    latency_s: float = 2.0
    """Seconds that a batch takes."""


def _call(name: str, when: Any) -> Stop:
    return Stop(when, lambda method, path: call_of(HttpRequest(method, path, {}, b"")) == name, number=2)


def _write(part: str, when: Any, *, number: int = 2) -> Stop:
    return Stop(when, lambda method, path: method == "PUT" and part in path, number=number)


def steps(who: str) -> tuple[Step, ...]:
    """Those of a teacher's batches, or of a judge's; the one that takes longest to resume comes first."""
    return (
        Step("between intent and create", "provider", _call("create", "before")),
        Step("before the intent", "store", _write(f"-{who}-0.json", "before")),
        Step("after create, before its record", "provider", _call("create", "after")),
        Step("while parked", "store", _write("-parked.json", "answered", number=CHUNKS), latency_s=12.0),
        Step("while results download", "provider", _call("download", "during")),
        Step("while sealing", "store", _write("/data/part-", "before")),
    )


class Scene:
    """One dataset, and what is between its runs and their servers."""

    def __init__(
        self,
        folder: Path,
        name: str,
        api: str,
        *,
        provider: Between,
        store: Between,
        bucket: str,
        prompts: range,
        in_one_process: bool,
        judged: bool,
    ) -> None:
        self.folder = folder / name
        self.name = name
        self._api = api
        self._in_one_process = in_one_process
        self._judged = judged
        self._killed_at = list[float]()
        self._moved = False
        """True once it runs where the first run's disk is not."""
        self._provider = provider
        self._stopped = provider if provider.stop is not None else store
        self._chunk = -(-len(prompts) // CHUNKS)
        write_source(self.folder, questions(len(prompts), start=prompts.start))
        asked: dict[str, Any] = {"teachers": [teacher_of(api, f"{provider.url}/v1")]}
        if judged:
            online = {"name": "t", "base_url": f"{provider.url}/v1", "model": "m", "terms": TERMS}
            judge = asked["teachers"][0] | {"name": "judge", "role": "judge", "ask": {"max_tokens": 100}}
            asked["teachers"] = [online | {"limits": {"in_flight": ONLINE}, "account": "online"}, judge]
            asked["checks"] = [{"judge": {"teacher": "judge", "template": "Score it.\n", "accept_if": ">= 3"}}]
        self._document = asked | {
            "name": "batches",
            "source": {"path": str(self.folder / "source"), "prompt": "question", "id": "id"},
            "ask": {"max_tokens": 200},
            "dataset": {
                "path": f"s3://{bucket}/{name}/out",
                "endpoint_url": store.url,
                "prompts_per_shard": self._chunk,
            },
        }

    def is_killed(self) -> None:
        """Run it until it reaches its stop, then kill everything."""
        assert any(self._comes_to_its_stop() for _ in range(STARTS)), f"no run did, see {self.folder / 'stderr.txt'}"
        self._stopped.release()

    def _comes_to_its_stop(self) -> bool:
        stopped = self._stopped
        with self._started("one") as run:
            try:
                wait_until(lambda: stopped.reached.is_set() or run.poll() is not None, what="the step", within_s=600)
                if stopped.stop is not None and stopped.stop.when == "answered":
                    time.sleep(PARKED_S)
            finally:
                self._killed_at.append(time.time())
                kill_all(run.pid)
        return stopped.reached.is_set()

    def is_resumed(self, *, elsewhere: bool) -> dict[str, Any]:
        """Run it to its end: here, or where only the store is shared. Returns what it says at its end."""
        self._moved = elsewhere
        for _ in range(STARTS):
            with self._started("two" if elsewhere else "one") as run:
                try:
                    run.wait(timeout=WITHIN_S)
                finally:
                    kill_all(run.pid)
                end = last_line(run)
            if end is not None and end.get("state") == "done":
                return end
        raise AssertionError(f"the dataset is not done, see {self.folder / 'stderr.txt'}")

    def history(self, server: S3Server, served: Sequence[dict[str, Any]], end: dict[str, Any]) -> dict[str, int]:
        """What the provider served of this dataset's batches; AssertionError where a promise is broken."""
        out = server.data / server.bucket / self.name / "out"
        dataset = (out / "_stillhouse" / "id").read_text()
        numbers = itertools.product(range(CHUNKS), range(4))
        who = JUDGE if self._judged else TEACHER
        intents = {intent_id(dataset, ChunkId(0, chunk), who=who, n=n) for chunk, n in numbers}
        mine = [line for line in served if line.get("key", "").partition("-")[0] in intents]
        prompts = CHUNKS * self._chunk
        assert len(mine) == prompts, f"{len(mine)} requests in batches for {prompts} prompts"
        assert (end["state"], end["records"] + end["rejected"], end["failed"]) == ("done", prompts, 0), end
        figures = self._check_judged(out, mine, served) if self._judged else self._check_asked(out, mine, end)
        by_batch: defaultdict[str, set[str]] = defaultdict(set)
        for line in mine:
            by_batch[line["batch"]].add(line["key"].partition("-")[0])
        asked = set().union(*by_batch.values())
        assert all(len(each) == 1 for each in by_batch.values()), "a batch has requests of several intents"
        assert len(by_batch) == len(asked), "an intent has several batches"
        assert not any(call_of(HttpRequest(*call, {}, b"")) == "cancel" for call in self._provider.seen), "cancelled"
        return {"batches": len(by_batch), "requests": len(mine), "records": figures["stored"]}

    def _check_asked(self, out: Path, mine: Sequence[dict[str, Any]], end: dict[str, Any]) -> dict[str, int]:
        """Each paid answer is stored, once."""
        if self._api == "bedrock":  # its replies have no ids
            mine = [line | {"id": line["prompt"]} for line in mine]
        assert (end["rejected"], end["maybe_billed"]) == (0, 0), end
        return check(out, self._logged("served", mine), samples=1, in_flight=0, kills=1)

    def _check_judged(
        self, out: Path, mine: Sequence[dict[str, Any]], served: Sequence[dict[str, Any]]
    ) -> dict[str, int]:
        """Each answer has its verdict, and none was paid for twice.

        Answers that were in flight at the kill were asked again, and those that only a lost disk had.
        """
        check_judged(out, self._logged("judged", mine), in_flight=0, killed_at=self._killed_at)
        stored = [ds.dataset(folder, format="parquet") for folder in (out / "data", out / "rejected")]
        keys = {key for each in stored for key in each.to_table(columns=["prompt_key"])["prompt_key"].to_pylist()}
        log = self._logged("served", [line for line in served if "batch" not in line and line["prompt"] in keys])
        again = len(keys) if self._moved else ONLINE
        return check(out, log, samples=1, in_flight=again, kills=len(self._killed_at), killed_at=self._killed_at)

    def _logged(self, name: str, lines: Sequence[dict[str, Any]]) -> Path:
        log = self.folder / f"{name}.jsonl"
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return log

    def _started(self, cluster: str) -> "subprocess.Popen[str]":
        path = self.folder / f"{cluster}.yaml"
        run = {"workers": 1, "journal_dir": str(self.folder / cluster)}
        path.write_text(yaml.safe_dump(self._document | {"run": run}))
        return start_run(path, in_one_process=self._in_one_process)


def survived(
    folder: Path,
    server: S3Server,
    api: str,
    step: Step,
    *,
    prompts: int,
    elsewhere: bool,
    datasets: int = 1,
    in_one_process: bool = False,
    judged: bool = False,
) -> dict[str, Any]:
    """Kill and resume several datasets on one account at the same time; returns the figures of all of them."""
    name = f"{api}-{step.name}-{elsewhere}-{datasets}-{judged}".replace(" ", "-").replace(",", "")
    log = folder / f"{name}.jsonl"
    batches = SimulatorBatches(latency_s=step.latency_s)
    began = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(datasets) as pool:
        teacher = stack.enter_context(simulator.start(SimulatorSettings(log=str(log), batches=batches)))
        scenes = []
        for number in range(datasets):
            urls = {"provider": teacher.url, "store": server.endpoint_url}
            between = {
                at: stack.enter_context(standing_before(url, step.stop if at == step.at else None))
                for at, url in urls.items()
            }
            ids = range(number * prompts, (number + 1) * prompts)
            scenes.append(
                Scene(
                    folder,
                    f"{name}-{number}",
                    api,
                    provider=between["provider"],
                    store=between["store"],
                    bucket=server.bucket,
                    prompts=ids,
                    in_one_process=in_one_process,
                    judged=judged,
                )
            )
        list(pool.map(lambda scene: scene.is_killed(), scenes))
        ends = list(pool.map(lambda scene: scene.is_resumed(elsewhere=elsewhere), scenes))
    served = [json.loads(line) for line in log.read_text().splitlines()]
    histories = [scene.history(server, served, end) for scene, end in zip(scenes, ends, strict=True)]
    figures = {what: sum(each[what] for each in histories) for what in histories[0]}
    batched = sum("batch" in line for line in served)
    assert figures["requests"] == batched, f"{batched - figures['requests']} requests are nobody's"
    return figures | {"seconds": round(time.monotonic() - began)}


def main() -> int:
    """See the module."""
    names = [step.name for step in steps(TEACHER)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--apis", nargs="+", default=APIS, choices=APIS)
    parser.add_argument("--steps", nargs="+", default=names, choices=names)
    parser.add_argument("--two", action="store_true", help="two datasets on one account instead of one")
    parser.add_argument("--judge", action="store_true", help="ask a judge in batches instead of the teacher")
    parser.add_argument("--in-one-process", action="store_true", help="runs without Ray, see `one_process.py`")
    parser.add_argument("--at-once", type=int, default=4, help="so many are killed and resumed at the same time")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as temporary, rclone_s3(Path(temporary)) as server:
        os.environ.update(server.env, AWS_ID="AKIDEXAMPLE", AWS_SECRET="secret")
        with ThreadPoolExecutor(args.at_once) as pool:
            cases = {
                pool.submit(
                    survived,
                    Path(temporary),
                    server,
                    api,
                    step,
                    prompts=args.prompts,
                    elsewhere=elsewhere,
                    datasets=2 if args.two else 1,
                    in_one_process=args.in_one_process,
                    judged=args.judge,
                ): (step.name, api, "another" if elsewhere else "same")
                for step in steps(JUDGE if args.judge else TEACHER)
                if step.name in args.steps
                for api in args.apis
                for elsewhere in (False, True)
            }
            print("| step | API | resumed on | batches | requests | records | seconds |\n|---|---|---|---|---|---|---|")
            for case in as_completed(cases):
                if (error := case.exception()) is None:
                    print("|", " | ".join(map(str, (*cases[case], *case.result().values()))), "|", flush=True)
                else:
                    failed = True
                    print("|", " | ".join(cases[case]), f"| {type(error).__name__}: {error}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""What a request costs over each protocol, against chat completions, in CPU of this process: scripts/bench protocols

The simulator answers, in a process of its own. Here requests are made (and signed, for Bedrock), sent, framed for the
journal and read, as a worker does; the protocols take turns. The bars: at most 1.2 times what chat completions cost,
and 1.6 times where requests are signed.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmark.bars import judged
from stillhouse.gen.journal.frames import Frame, Kind, encode
from stillhouse.gen.simulator import start
from stillhouse.gen.teachers.aws_keys import AwsChain, AwsKeys
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.teacher import Teacher

REQUESTS, IN_FLIGHT, ROUNDS = 2_000, 64, 5
AGAINST = "openai-chat"
BARS = {"openai-responses": 1.2, "anthropic": 1.2, "gemini": 1.2, "bedrock": 1.6}
SYSTEM = "You are a careful mathematician."
QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many is 48 + 24?"


@dataclass(frozen=True, slots=True)
class Asked:
    """A teacher, and what its requests are authorised with."""

    interpreter: Interpreter
    url: str
    key: Credentials


def main() -> int:
    """Print a line for each protocol; 1 if one misses its bar."""
    with start(SimulatorSettings(output_tokens=(64, 64))) as server:
        costs_us = asyncio.run(_measure({api: _asked(api, server.url) for api in (AGAINST, *BARS)}))
    print(f"{AGAINST:17}{costs_us[AGAINST]:7.0f} µs of CPU a request")
    return max(_judged(api, costs_us[api], against_us=costs_us[AGAINST]) for api in BARS)


def _judged(api: str, cost_us: float, *, against_us: float) -> int:
    times, bar = cost_us / against_us, BARS[api]
    return judged(f"{api:17}{cost_us:7.0f} µs, {times:.2f} times as much (bar: at most {bar:g})", met=times <= bar)


def _asked(api: str, url: str) -> Asked:
    given: dict[str, Any] = {"name": "t", "api": api, "model": "m", "terms": {"training_use": "permitted"}}
    url = url if api == AGAINST else url.removesuffix("/v1")
    given |= {"base_url": url} | ({"aws": {"region": "us-east-1"}} if api == "bedrock" else {})
    key = Credentials("a-key-of-the-benchmark")
    if api == "bedrock":
        key = Credentials(aws=AwsChain(AwsKeys("AKIDEXAMPLE", "the-secret")))
    return Asked(Interpreter(Teacher.model_validate(given), Ask(max_tokens=100, temperature=0.7)), url, key)


async def _measure(teachers: dict[str, Asked]) -> dict[str, float]:
    """Microseconds a request by protocol, the least of the rounds: others only ever add to it."""
    found: dict[str, list[float]] = {api: [] for api in teachers}
    transport = HttpTransport()
    for _ in range(1 + ROUNDS):  # the first one warms up
        for api, asked in teachers.items():
            began = time.process_time()
            await asyncio.gather(*(_ask(transport, asked, REQUESTS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
            found[api].append(time.process_time() - began)
    await transport.close()
    requests = REQUESTS // IN_FLIGHT * IN_FLIGHT
    return {api: min(spent[1:]) / requests * 1e6 for api, spent in found.items()}


async def _ask(transport: HttpTransport, asked: Asked, count: int) -> None:
    reader = asked.interpreter
    for ordinal in range(count):
        question = Request((("system", SYSTEM), ("user", QUESTION)), sample=ordinal)
        request = reader.protocol.request(question, base_url=asked.url, key=asked.key, now=time.time())
        encode(Frame(Kind.SENT, ordinal, 1.0, endpoint="host", teacher=0))
        reply = await transport.send(request, timeout_s=60.0)
        headers = tuple(reply.headers.items())
        encode(Frame(Kind.ANSWERED, ordinal, 1.0, reply.latency_s, reply.status, "host", reply.body, headers, 0))
        answer = reader.read(reader.fold(reply))
        assert isinstance(answer, Completion), answer


if __name__ == "__main__":
    sys.exit(main())

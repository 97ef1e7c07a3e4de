"""Two cases on two hosts, a minute or two each; `python -m tests.hosts` lives through all of them."""

import sys
import time
from pathlib import Path

import pytest

from hosts.cases import CASES
from hosts.host import in_namespace
from hosts.lab import PER_MINUTE, lab, teacher
from hosts.network import network, why_not
from hosts.verdict import read_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"no hosts: {why_not()}"),
    pytest.mark.timeout(600),
]

_ASKER = """
import asyncio, sys, time
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.teachers.transport import HttpRequest, Lost

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "%d"}]}'

async def main(url):
    http = HttpTransport()
    await http.send(HttpRequest("POST", url, {}, BODY % 1), timeout_s=600)
    print("cut", flush=True)
    sys.stdin.readline()
    sent_at = time.monotonic()
    try:
        await http.send(HttpRequest("POST", url, {}, BODY % 2), timeout_s=600)
    except Lost:
        print(f"lost {time.monotonic() - sent_at:.1f}", flush=True)
    await http.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("case", ["none", "nodekilled"])
def test_two_hosts(case: str, tmp_path: Path) -> None:
    """Nothing received is asked again, except what only a lost disk had; limits hold by the teacher's count."""
    with lab(case, prompts=PER_MINUTE, folder=tmp_path) as bench:
        CASES[case](bench)
        figures = bench.figures()
    print(figures.line())
    # For a quiet machine to show, and for the command to judge: how much of the limit is used, and the fullest second,
    # for a teacher that stalls beside other tests sees at once what came meanwhile. Virtual time judges that second.
    of_the_machine = ("of the limit", "idle", "in a second")
    assert not [fault for fault in figures.faults if not any(words in fault for words in of_the_machine)], figures


def test_a_request_sent_into_a_cut_link_never_arrives(tmp_path: Path) -> None:
    """Its connection is given up after 20 s, and none of it is delivered if the link comes back 4 s later."""
    with network(1) as net, teacher(net.teacher, tmp_path) as url:
        asker = in_namespace(net.namespace(1), sys.executable, "-c", _ASKER, f"{url}/chat/completions")
        with asker:
            assert asker.stdin is not None
            assert asker.stdout is not None
            assert asker.stdout.readline() == "cut\n"
            net.cut(1)
            asker.stdin.write("\n")
            asker.stdin.flush()
            said = asker.stdout.readline().split()
            # The last retransmission waits for the address of a neighbour that does not answer, for up to 3 s, whatever
            # has become of its connection: a link that is back sooner delivers it.
            time.sleep(4.0)
            net.heal(1)
        assert said[0] == "lost"
        assert 18.0 < float(said[1]) < 30.0
        time.sleep(5.0)  # a kernel that still had it would send it now
    assert len(read_log(tmp_path / "teacher.jsonl")) == 1

"""What the journal costs a request, in CPU of this process: python -m benchmark.journal, with scripts/ on the path.

The frames of chunks of 1,000 requests are appended, packed as shipping packs them, read back as sealing does, and
removed. The bodies are as large as the simulator's.
"""

import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import MAGIC, Frame, Kind

CHUNKS, PER_CHUNK, BODY_BYTES = 50, 1000, 700
HEADERS = (("content-type", "application/json"), ("date", "Thu, 26 Nov 2026 10:00:00 GMT"))


def main() -> None:
    """Print the microseconds a request of each part."""
    body = bytes(range(32, 127)) * (BODY_BYTES // 95 + 1)
    spent = {"append": 0.0, "ship": 0.0, "read back": 0.0, "remove": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for chunk in range(CHUNKS):
            journal = JournalFile.create(Path(folder, f"{chunk}.journal"))
            marks = [time.process_time()]
            places = []
            for ordinal in range(PER_CHUNK):
                journal.append(Frame(Kind.SENT, ordinal, 1.0, endpoint="host", teacher=0))
                frame = Frame(Kind.ANSWERED, ordinal, 1.0, 0.5, 200, "host", body[:BODY_BYTES], HEADERS, 0)
                places.append(journal.append(frame))
            marks.append(time.process_time())
            pa.Codec("zstd").compress(MAGIC + journal.tail(len(MAGIC)), asbytes=True)
            marks.append(time.process_time())
            for _ in journal.read_each(places):
                pass
            marks.append(time.process_time())
            journal.remove()
            marks.append(time.process_time())
            for part, (start, end) in zip(spent, pairwise(marks), strict=True):
                spent[part] += end - start
    for part, seconds in spent.items():
        print(f"{part:10}{seconds / (CHUNKS * PER_CHUNK) * 1e6:7.2f} us a request")


if __name__ == "__main__":
    main()

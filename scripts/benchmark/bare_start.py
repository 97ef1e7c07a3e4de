"""A bare script: joins Ray and sends one request in the first call of one actor. URL [ADDRESS]; by default Ray's own.

It stands for the least that any program on Ray does before it works, so the actor imports nothing that Ray's worker has
not imported.
"""

import sys
from typing import Any

import ray


class Asker:
    """Sends one request."""

    def ask(self, url: str) -> int:
        """The status of the answer."""
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        connection = HTTPConnection(urlsplit(url).netloc)
        body = '{"model": "m", "messages": [{"role": "user", "content": "?"}]}'
        connection.request("POST", f"{urlsplit(url).path}/chat/completions", body, {"content-type": "application/json"})
        return connection.getresponse().status


url, *addresses = sys.argv[1:]
ray.init(address=addresses[0] if addresses else None)
asker: Any = ray.remote(Asker).remote()
status = ray.get(asker.ask.remote(url))
sys.exit(status != 200)

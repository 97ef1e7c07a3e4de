"""All uses of the private interface of Ray's job client, and nothing else: seen in Ray 2.54 to 2.60.

Apart from `ray_internals.py`, because the client takes a third of a second of CPU to import, which no actor needs. For
each use, tests/unit/test_ray_internals.py says what breaks if a later Ray lacks it.
"""

from typing import Any

from ray.job_submission import JobSubmissionClient

CLIENT_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.authentication.http_token_authentication",
)
"""Loggers that warn about a job client's troubles, which our own messages report."""


class JobClient(JobSubmissionClient):
    """Ray's client of the Jobs API, with its one request method open to subclasses.

    Ray's own client waits for ever for a host that does not answer, never retries, and follows redirects.
    """

    @property
    def server_version(self) -> str:
        """The version of Ray that the cluster runs."""
        return str(self._server_ray_version)

    def send(self, method: str, endpoint: str, **options: Any) -> Any:
        """Send any of the client's requests; for subclasses, which call `exchange`."""
        return self.exchange(method, endpoint, headers=self._headers, **options)

    def exchange(self, method: str, endpoint: str, *, headers: dict[str, str], **options: Any) -> Any:
        """Send one request with only these headers; `options` are those of `requests.request`.

        Raises:
            ray.exceptions.AuthenticationError: the cluster rejects the token, or requires one.
        """
        self._headers = headers  # without a token that Ray found by itself
        return super()._do_request(method, endpoint, **options)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return self.send(method, endpoint, **options)

"""How requests to Bedrock are signed."""

import re
from collections.abc import Iterable
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from stillhouse.schemas.base import Strict
from stillhouse.schemas.headers import is_reference

_BEDROCK_HOST = re.compile(r"\bbedrock(?:-runtime)?(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d)\.(?:vpce\.)?amazonaws\.com")


def _secret_reference(value: str) -> str:
    if not is_reference(value):
        # The value may be a key, so the message does not repeat it.
        raise ValueError("expected a reference, `env:NAME` or `file:/absolute/path`, never the key itself")
    return value


_Reference = Annotated[str, AfterValidator(_secret_reference)]


class Aws(Strict):
    """Region and keys of `api: bedrock`; needed only if AWS's own chain (environment, profile, role) has none."""

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")] | None = None
    """Region that requests are signed for; by default the one in the host's name."""
    profile: str | None = None
    """Name of a profile in the nodes' AWS configuration."""
    access_key_id: _Reference | None = None
    """Reference to the access key's id, `env:NAME` or `file:/path`."""
    secret_access_key: _Reference | None = None
    """Reference to the secret that belongs to `access_key_id`."""
    session_token: _Reference | None = None
    """Reference to the session token of temporary keys."""

    @property
    def signs(self) -> bool:
        """True if keys are given here."""
        return self.access_key_id is not None or self.profile is not None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("`access_key_id` and `secret_access_key` go together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("`session_token` goes with `access_key_id` and `secret_access_key`")
        if self.profile is not None and self.access_key_id is not None:
            raise ValueError("expected `profile` or keys, got both")
        return self


def region_of(aws: Aws, urls: Iterable[str]) -> str | None:
    """The region to sign for: the recipe's, else the one in the host names; None if neither names one."""
    if aws.region is not None:
        return aws.region
    found = {match[1] for url in urls if (match := _BEDROCK_HOST.search(urlsplit(url).hostname or ""))}
    return found.pop() if len(found) == 1 else None

"""How a teacher's batches are made, and where Bedrock's lie."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.base import Strict
from stillhouse.schemas.endpoint_url import EndpointUrl


class BedrockBatch(Strict):
    """Bedrock reads and writes batches in this bucket, with this role."""

    role_arn: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$")]
    """ARN of the role with which Bedrock reads and writes the bucket."""
    s3: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()-]+)*/?$")]
    """Folder for inputs and outputs: `s3://bucket/folder`, in the region that is asked."""
    s3_endpoint: EndpointUrl | None = None
    """URL below which the bucket stands, where it isn't S3's own; the bucket's name then comes first in the path."""


class BatchSettings(Strict):
    """Size and number of a teacher's batches."""

    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Requests in one batch, at most."""
    max_open: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Batches at the provider at once, at most."""
    window_h: Annotated[int, Field(ge=24, le=168)] = 24
    """Hours within which the provider is to finish a batch, where it offers a choice."""
    bedrock: BedrockBatch | None = None
    """With `api: bedrock`: its bucket and role."""

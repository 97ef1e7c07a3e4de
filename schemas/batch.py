"""Settings of a teacher's batches, and of the S3 bucket that Bedrock needs for them."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.base import Strict
from stillhouse.schemas.endpoint_url import EndpointUrl


class BedrockBatch(Strict):
    """Bedrock reads and writes batches in this bucket, with this role."""

    role_arn: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$")]
    """ARN of the role with which Bedrock reads and writes the bucket."""
    s3: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()-]+)*/?$")]
    """Folder for inputs and outputs: `s3://bucket/folder`, in the region that serves the model."""
    s3_endpoint: EndpointUrl | None = None
    """Base URL of the store, if it isn't S3's own; the bucket's name comes first in the path."""


class BatchSettings(Strict):
    """Size and number of a teacher's batches."""

    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Maximum number of requests in one batch."""
    max_open: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Maximum number of open batches at the provider."""
    window_h: Annotated[int, Field(ge=24, le=168)] = 24
    """Hours within which the provider should finish a batch, if it offers a choice."""
    bedrock: BedrockBatch | None = None
    """With `api: bedrock`: the bucket and the role."""

"""Where the records go, and how."""

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.schemas.base import Strict
from stillhouse.schemas.endpoint_url import EndpointUrl
from stillhouse.schemas.location import Location

PROMPTS_PER_SHARD = 1000
"""The default for a new dataset."""
SAMPLES_PER_BATCH = 10_000

MESSAGES = False
"""The default for a new dataset. With GSM8K's questions and answers, a conversation column makes shards 50 % larger
(40 % with four samples per prompt), because texts are compressed column by column."""


class Dedup(Strict):
    """Which duplicates are removed; duplicate prompts always are."""

    answers: bool = True
    """Keep only the first of several equal answers to a prompt."""


class Dataset(Strict):
    """Where the records go, and how."""

    path: Location
    """A local folder or s3://bucket/prefix."""
    prompts_per_shard: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Prompts per chunk: the unit of lease, work and commit. By default the dataset's own value; for a new dataset
    1000, or enough for 10,000 samples if all teachers are asked in batches."""
    reasoning: Literal["column", "inline"] = "column"
    """Where reasoning goes: a `column` of its own, or `inline` as <think>…</think> at the start of the completion."""
    messages: bool | None = None
    """Add the column `messages`: prompt and completion as one conversation, which LLaMA-Factory, axolotl, verl and
    torchtune need (TRL and OpenRLHF take `prompt` and `completion`). Shards become about 50 % larger. By
    default the dataset's own value, false for a new one."""
    provider_details: bool | None = None
    """Add what only some providers report: the columns `reasoning_is_summary`, `reasoning_signatures`,
    `refusal_category` and `cache_write_tokens`. By default the dataset's own value; for a new one, true unless all
    teachers are `openai-chat` or `simulator`."""
    images: Literal["reference", "embed"] = "reference"
    """What the column `images` holds: a `reference` to each image's place in the source, or the image itself, as TRL's
    vision SFT needs it (`embed`: a copy in every record)."""
    keep_raw: bool = True
    """Keep the providers' response bodies, in `_stillhouse/raw/`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of the S3-compatible store for the dataset; by default from the standard AWS settings."""
    region: str | None = None
    """The store's region; by default from the standard AWS settings."""
    path_style: bool | None = None
    """Address buckets by path; the default if `endpoint_url` is given."""
    encryption: Annotated[str, Field(pattern=r"^(AES256|aws:kms(:dsse)?(:.+)?)$")] | None = None
    """Server-side encryption to request: AES256, aws:kms, or aws:kms:<key id>; by default the bucket's own."""

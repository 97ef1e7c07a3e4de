"""The official clients work with the simulator's batches."""

import io
import json
from collections.abc import Iterator
from typing import Any

import boto3
import openai
import pytest
from botocore.config import Config
from waiting import wait_until

from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.schemas.simulator import SimulatorBatches, SimulatorSettings

anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")

KEY = "AKIDEXAMPLE:the-secret"
QUESTION = "What is 6 * 7?"


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    """One whose batches end at once."""
    with start(SimulatorSettings(api_key=KEY, batches=SimulatorBatches(latency_s=0.2))) as process:
        yield process


def test_the_openai_client_reads_batches(simulator: SimulatorProcess) -> None:
    """File, batch, listing with metadata, and the file of results."""
    client = openai.OpenAI(api_key=KEY, base_url=simulator.url, max_retries=0)
    body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
    lines = [
        json.dumps({"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        for n in range(3)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"mine": "yes"}
    )
    wait_until(lambda: client.batches.retrieve(made.id).status == "completed", what="the batch's end", within_s=20)
    (listed,) = [each for each in client.batches.list(limit=1) if each.metadata == {"mine": "yes"}]
    assert listed.request_counts is not None
    assert listed.request_counts.completed == 3
    assert listed.output_file_id is not None
    rows = [json.loads(line) for line in client.files.content(listed.output_file_id).text.splitlines()]
    assert {row["custom_id"] for row in rows} == {"r-0", "r-1", "r-2"}
    assert all(row["response"]["body"]["choices"][0]["message"]["content"].endswith("#### 42") for row in rows)
    assert client.batches.cancel(made.id).status == "completed"


def test_the_anthropic_client_reads_batches(simulator: SimulatorProcess) -> None:
    """Batch, listing, and the stream of results, an error among them."""
    client = anthropic.Anthropic(api_key=KEY, base_url=simulator.url.removesuffix("/v1"), max_retries=0)
    params = {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": QUESTION}]}
    bad = {"model": "claude-x", "max_tokens": 100, "messages": []}
    requests: Any = [{"custom_id": "good", "params": params}, {"custom_id": "bad", "params": bad}]
    made = client.messages.batches.create(requests=requests)

    def has_ended() -> bool:
        return bool(client.messages.batches.retrieve(made.id).processing_status == "ended")

    wait_until(has_ended, what="the batch's end", within_s=20)
    assert made.id in [each.id for each in client.messages.batches.list(limit=1)]
    found = {each.custom_id: each.result for each in client.messages.batches.results(made.id)}
    assert found["good"].type == "succeeded"
    assert found["good"].message.content[0].text.endswith("#### 42")
    assert found["bad"].type == "errored"
    assert found["bad"].error.error.type == "invalid_request_error"


def test_the_google_client_reads_batches(simulator: SimulatorProcess) -> None:
    """Upload, batch, listing by name, and the file of results."""
    options = genai.types.HttpOptions(base_url=simulator.url.removesuffix("/v1"))
    with genai.Client(api_key=KEY, http_options=options) as client:
        row = {"key": "k", "request": {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]}}
        file = client.files.upload(
            file=io.BytesIO(json.dumps(row).encode()), config={"mime_type": "application/jsonl", "display_name": "in"}
        )
        made = client.batches.create(model="gemini-x", src=file.name, config={"display_name": "mine"})
        wait_until(
            lambda: client.batches.get(name=made.name).state.name == "JOB_STATE_SUCCEEDED",
            what="the batch's end",
            within_s=20,
        )
        (listed,) = [each for each in client.batches.list() if each.display_name == "mine"]
        assert listed.dest.file_name
        (found,) = client.files.download(file=listed.dest.file_name).splitlines()
    answer = json.loads(found)
    assert answer["key"] == "k"
    assert answer["response"]["candidates"][0]["content"]["parts"][0]["text"].endswith("#### 42")


def test_boto3_reads_batches(simulator: SimulatorProcess) -> None:
    """Objects, a job by its token, listing by name, and the output; every call is signed."""
    root = simulator.url.removesuffix("/v1")
    session: Any = boto3.Session(
        aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="the-secret", region_name="us-east-1"
    )
    config = Config(
        retries={"total_max_attempts": 1},
        proxies={},
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    bedrock = session.client("bedrock", endpoint_url=root, config=config)
    s3 = session.client("s3", endpoint_url=f"{root}/s3", config=config)
    row = {"recordId": "r", "modelInput": {"messages": [{"role": "user", "content": [{"text": QUESTION}]}]}}
    s3.put_object(Bucket="b", Key="in/x.jsonl", Body=json.dumps(row).encode())
    made = bedrock.create_model_invocation_job(
        jobName="job-1",
        roleArn="arn:aws:iam::123456789012:role/r",
        modelId="m",
        clientRequestToken="token",
        inputDataConfig={"s3InputDataConfig": {"s3Uri": "s3://b/in/x.jsonl"}},
        outputDataConfig={"s3OutputDataConfig": {"s3Uri": "s3://b/out/"}},
        modelInvocationType="Converse",
    )["jobArn"]

    def has_ended() -> bool:
        return bool(bedrock.get_model_invocation_job(jobIdentifier=made)["status"] == "Completed")

    wait_until(has_ended, what="the job's end", within_s=20)
    (listed,) = bedrock.list_model_invocation_jobs(nameContains="job-")["invocationJobSummaries"]
    assert (listed["jobArn"], listed["clientRequestToken"]) == (made, "token")
    key = f"out/{made.rpartition('/')[2]}/x.jsonl.out"
    (found,) = s3.get_object(Bucket="b", Key=key)["Body"].read().splitlines()
    answer = json.loads(found)
    assert answer["recordId"] == "r"
    assert answer["modelOutput"]["output"]["message"]["content"][0]["text"].endswith("#### 42")

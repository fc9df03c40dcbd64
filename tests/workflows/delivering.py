"""A user's bucket on a real S3 server, and runs whose files go there."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import boto3
from botocore.config import Config

from script.harness import graphs
from workflows.delivery import sender

GRAPH = graphs.colour(0x3366CC)


class Bucket:
    def __init__(self, server: Any) -> None:
        # One for all tests: a bucket takes several of the few volumes of the test's server.
        self.server, self.name = server, "theirs"
        self.client: Any = boto3.client(
            "s3", endpoint_url=server.url, aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key, region_name="us-east-1",
            config=Config(signature_version="s3v4"),
        )  # fmt: skip
        with suppress(self.client.exceptions.BucketAlreadyOwnedByYou):
            self.client.create_bucket(Bucket=self.name)
        for key in self.keys():
            self.client.delete_object(Bucket=self.name, Key=key)

    @property
    def saved(self) -> dict[str, str]:
        """As a user saves it."""
        return {
            "name": "mine", "endpoint": self.server.url, "bucket": self.name, "prefix": "renders/today",
            "access_key": self.server.access_key, "secret_key": self.server.secret_key,
        }  # fmt: skip

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def read(self, key: str) -> tuple[bytes, str]:
        found = self.client.get_object(Bucket=self.name, Key=key)
        return found["Body"].read(), found["ContentType"]

    def presigned(self, key: str) -> str:
        given = {"Bucket": self.name, "Key": key}
        return str(self.client.generate_presigned_url("put_object", Params=given, ExpiresIn=600))


def run(rig: Any, output: dict[str, Any], graph: graphs.Graph = GRAPH, **more: Any) -> dict[str, Any]:
    """The result when it has ended; nothing is delivered yet."""
    answer = rig.api.post("/workflows/execute", {"workflow": graph, "output": output, **more})
    assert answer.status_code == 200, answer.content
    rig.slots.serve_in_thread()
    return rig.ends(answer.json()["execution_id"], "completed")


def send() -> int:
    """What is due, sent once; how many that were."""
    taken = sender.take(limit=100)
    for each in taken:
        sender.deliver(each)
    return len(taken)


def delivery(rig: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    return rig.api.get(f"/workflows/{result['execution_id']}").json()["delivery"]

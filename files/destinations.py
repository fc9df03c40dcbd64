"""Buckets of users: saved, tested when they are, and addressed by signed links of S3.

Nothing connects to them but the guarded client: a link is signed here, without the network, and used there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts import audit
from accounts.models import User
from comfyserve import secret_box
from comfyserve.api.errors import Conflict, NotFound, ValidationFailed
from comfyserve.db import connections
from comfyserve.outbound import client, errors

from .models import Destination

LINK_SECONDS = 3600  # validity of a signed URL, which is used immediately
TEST_SECONDS = 10.0
TEST_KEY = ".comfyserve-test"
MAX_DESTINATIONS = 50  # of one user
# The field of a destination that caused S3's error, by error code.
FIELDS = {
    "NoSuchBucket": "bucket",
    "InvalidBucketName": "bucket",
    "InvalidAccessKeyId": "access_key",
    "SignatureDoesNotMatch": "secret_key",
    "AuthorizationHeaderMalformed": "region",
    "AuthorizationQueryParametersError": "region",
    "PermanentRedirect": "region",
}


def of_user(user: User) -> QuerySet[Destination]:
    return Destination.objects.filter(user=user).order_by("name")


def find(*, user: User, name: str) -> Destination:
    found = of_user(user).filter(name=name[:63]).first()
    if found is None:
        raise NotFound(f"You have no destination '{name[:63]}'")
    return found


def create(*, user: User, given: Mapping[str, Any]) -> Destination:
    """Saved if a small file could be written to it. Raises ValidationFailed by field, and Conflict."""
    if of_user(user).count() >= MAX_DESTINATIONS:
        raise Conflict(f"You have {MAX_DESTINATIONS} destinations; delete one first")
    if of_user(user).filter(name=given["name"]).exists():
        raise Conflict(f"You have a destination '{given['name']}' already")
    new = Destination(user=user)
    _apply(new, given)
    _test(new)
    try:
        with transaction.atomic():
            new.save(force_insert=True)
            audit.record("destination.create", on=new)
    except IntegrityError:
        raise Conflict(f"You have a destination '{given['name']}' already") from None
    new.refresh_from_db()
    return new


def change(destination: Destination, *, given: Mapping[str, Any]) -> Destination:
    """The same; omitted fields stay. A new endpoint or bucket requires the secret again: whoever changes it
    may not be the secret's owner.
    """
    moved = any(given.get(name, getattr(destination, name)) != getattr(destination, name) for name in ADDRESS)
    if moved and "secret_key" not in given:
        raise ValidationFailed.of(
            "secret_key", "A new address requires the secret key again", "REQUIRED_FIELD"
        )
    _apply(destination, given)
    _test(destination)
    destination.updated_at = Now()
    with transaction.atomic():
        destination.save()
        audit.record("destination.change", on=destination)
    destination.refresh_from_db()
    return destination


def delete(destination: Destination) -> None:
    with transaction.atomic():
        audit.record("destination.delete", on=destination)
        destination.delete()


ADDRESS = ("endpoint", "bucket", "region", "access_key")


def _apply(destination: Destination, given: Mapping[str, Any]) -> None:
    for name in ("name", "endpoint", "region", "bucket", "prefix", "access_key"):
        if name in given:
            value = given[name]
            setattr(
                destination, name, value.strip("/") if name in ("prefix", "bucket") else value.rstrip("/")
            )
    if "secret_key" in given:
        destination.secret = secret_box.encrypt(given["secret_key"])


# -- addresses -----------------------------------------------------------------------------------------
def plain_url(destination: Destination, key: str) -> str:
    """The object's URL without a signature. `key` is below the prefix."""
    whole = f"{destination.prefix}/{key}" if destination.prefix else key
    return f"{destination.endpoint}/{quote(destination.bucket)}/{quote(whole, safe='/~-._')}"


def signed_url(destination: Destination, key: str, *, method: str = "PUT") -> str:
    """The same with a signature that is valid for an hour. Raises secret_box.Unreadable."""
    from botocore.auth import S3SigV4QueryAuth  # late: 10 MB in each process, for the few that deliver
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    credentials = Credentials(destination.access_key, secret_box.decrypt(destination.secret))
    request = AWSRequest(method, plain_url(destination, key))
    S3SigV4QueryAuth(credentials, "s3", destination.region, expires=LINK_SECONDS).add_auth(request)
    return str(request.url)


# -- the test ------------------------------------------------------------------------------------------
def _test(destination: Destination) -> None:
    """Write a small file and delete it again. If only writing is allowed, that file stays."""
    connections.release()
    options: dict[str, Any] = {"timeout": TEST_SECONDS, "https_only": settings.WEBHOOK_HTTPS_ONLY}
    content = b"ComfyServe was here, to test whether it may write.\n"
    try:
        answer = client.put(signed_url(destination, TEST_KEY), BytesIO(content), size=len(content), **options)
        if 200 <= answer.status < 300:
            client.delete(signed_url(destination, TEST_KEY, method="DELETE"), **options)
            return
    except errors.OutboundError as exc:
        raise ValidationFailed.of("endpoint", str(exc), "CANNOT_DELIVER") from exc
    code = error_code(answer.body)
    raise ValidationFailed.of(
        FIELDS.get(code, "bucket"),
        f"The test file could not be written: {explained(answer)}",
        "CANNOT_DELIVER",
    )


def explained(answer: client.Posted) -> str:
    """S3's error, without secrets."""
    code = error_code(answer.body)
    return f"the server responded with {answer.status}{f' ({code})' if code else ''}"


def error_code(body: bytes) -> str:
    found = re.search(rb"<Code>([A-Za-z0-9]{1,60})</Code>", body[:4096])
    return found[1].decode() if found else ""

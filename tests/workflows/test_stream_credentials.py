"""A live stream ends soon after its credential became invalid."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from script.harness import graphs
from script.harness.sse import EventStream, follow
from script.harness.stack import Person, Stack

SOON = 30.0  # seconds, on a busy machine; it is looked at every three


@pytest.fixture
def site(bare_stack: Stack) -> Stack:
    """No worker: what is submitted waits."""
    return bare_stack


def ends_soon(stream: EventStream, after: Callable[[], None]) -> None:
    stream.until("status")
    after()
    began = time.monotonic()
    stream.rest(seconds=SOON)
    assert time.monotonic() - began < SOON


def log_out(person: Person) -> None:
    assert person.post("/auth/logout").status_code in (200, 204)


def change_password(person: Person) -> None:
    body = {"current_password": person.password, "new_password": "another horse battery"}
    assert person.post("/auth/password", body).status_code in (200, 204)


@pytest.mark.parametrize("way", [log_out, change_password])
@pytest.mark.parametrize("of_one", [True, False])
def test_a_stream_ends_with_its_session(site, way, of_one):
    person = site.person("leaves")
    execution_id = person.execute(graphs.colour(1))
    with follow(person, execution_id if of_one else None) as stream:
        ends_soon(stream, lambda: way(person))


def test_streams_end_with_the_account_also_those_of_signed_links(site):
    person = site.person("deactivated")
    execution_id = person.execute(graphs.colour(1))
    link = person.get(f"/workflows/{execution_id}").json()["events_url"]
    with follow(person, execution_id) as own, EventStream(link) as signed:
        signed.until("status")
        ends_soon(
            own,
            lambda: site.sql("UPDATE accounts_user SET is_active = false WHERE email = %s", person.email),
        )
        signed.rest(seconds=SOON)


@pytest.mark.parametrize("path", ["/workflows/{}/events", "/api/v2/jobs/{}/events"])
def test_a_stream_ends_with_its_key(site, path):
    person = site.person("revoked")
    execution_id = person.execute(graphs.colour(1))
    made = person.post("/auth/keys", {"name": "streams"}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    with EventStream(person.url + path.format(execution_id), headers=headers) as stream:
        ends_soon(stream, lambda: person.session.delete(f"{person.url}/auth/keys/{made['id']}"))


def test_a_stream_with_a_valid_credential_continues(site):
    stays, leaves = site.person("stays"), site.person("leaves")
    execution_id = stays.execute(graphs.colour(1))
    leaves.execute(graphs.colour(2))
    with follow(stays) as stream, follow(leaves) as other:
        stream.until("status")
        ends_soon(other, lambda: log_out(leaves))
        assert stays.post(f"/workflows/{execution_id}/cancel").status_code == 200
        stream.until("status", status="cancelled")

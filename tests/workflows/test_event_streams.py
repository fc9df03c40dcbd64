"""Event streams as connections: outages, restarts, and limits on their number."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import redis

from script.harness import graphs
from script.harness.sse import follow, statuses
from script.harness.waiting import wait_for
from tests.services import services


def test_streams_go_on_when_redis_drops_every_connection(gpu_worker):
    person = gpu_worker.person()
    execution_id = person.execute(graphs.sleep(3, seed=18))
    with follow(person, execution_id) as stream:
        stream.until("status", status="running")
        redis.Redis.from_url(services.redis_url).client_kill_filter(_type="pubsub", skipme=True)
        stream.until("status", status="completed")


def test_streams_end_cleanly_when_the_server_stops(stack):
    person = stack.person()
    with follow(person) as stream:
        time_to_open = wait_for(lambda: stream.status, what="the stream")
        assert time_to_open == 200
        logged = stack.web.log.stat().st_size
        stack.web.signal(signal.SIGTERM)
        stream.rest()
        wait_for(lambda: not stack.web.alive, what="the server's end")
    assert b"Traceback" not in stack.web.log.read_bytes()[logged:]
    stack.start_web()


def test_an_idle_stream_holds_no_thread_and_no_database_connection(stack):
    people = [stack.person() for _ in range(3)]
    streams = [follow(people[0])]

    def threads():
        return int(Path(f"/proc/{stack.web.pid}/status").read_text().split("Threads:")[1].split()[0])

    def connections():
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return stack.sql(query)[0][0]

    try:
        streams += [follow(people[n % 3]) for n in range(40)]
        before = threads(), connections()
        streams += [follow(people[n % 3]) for n in range(120)]
        assert all(stream.status == 200 for stream in streams)
        # Pools that are not full yet may grow; a thread for each would be 120.
        wait_for(lambda: threads() - before[0] <= 12, what="no thread for each")
        wait_for(lambda: connections() - before[1] <= 12, what="no connection for each")
    finally:
        for stream in streams:
            stream.close()


def test_a_stream_outlives_an_outage_of_valkey(gpu_worker):
    """Open before it, it tells in order of what ends meanwhile; afterwards all is as before."""
    if services.valkey is None:
        pytest.skip("TEST_REDIS_URL names a server that is not ours to stop")
    person = gpu_worker.person()
    with follow(person) as stream:
        running = person.execute(graphs.sleep(2, seed=19))
        stream.until("status", status="running", execution_id=running)
        services.valkey.process.kill()
        try:
            meanwhile = person.execute(graphs.colour(0x404041))
            ends = [stream.until("status", status="completed", seconds=40) for _ in range(2)]
            assert {end.data["execution_id"] for end in ends} == {running, meanwhile}
        finally:
            services.valkey.start()
            services.valkey.wait()
    for execution_id in (running, meanwhile):
        mine = [event for event in stream.seen if event.data.get("execution_id") == execution_id]
        assert statuses(mine) == ["pending", "running", "completed"]
    # Previews are in no table: who sees one is told again, and does not only look.
    execution_id = person.execute(graphs.txt2img(steps=1000, seed=20))
    with follow(person, execution_id, query="?previews=1") as shown:
        shown.until("preview")
    person.post(f"/workflows/{execution_id}/cancel")


# -- no more than are allowed --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two_each(_stack):
    """No user may have more than two streams."""
    _stack.start_web(env={"STREAMS_PER_USER": "2"})
    yield _stack
    _stack.stop_web()


def test_too_many_streams_of_one_user_are_refused(two_each):
    person = two_each.person()
    with follow(person) as one, follow(person) as two:
        wait_for(lambda: follow(person).status == 429, what="a refusal")
        assert one.status == two.status == 200
    wait_for(lambda: follow(person).status == 200, what="room again")


def test_a_closed_tab_is_noticed(two_each):
    person = two_each.person()
    with follow(person) as kept:
        with follow(person) as closed:
            assert kept.status == closed.status == 200
        wait_for(lambda: follow(person).status == 200, seconds=12, what="the place of the closed one")

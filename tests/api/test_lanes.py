"""Lanes limit how many expensive requests are handled at once, in all and of one account."""

from __future__ import annotations

import asyncio

import pytest

from comfyserve.api.errors import Unavailable
from comfyserve.api.gate import routes
from comfyserve.api.gate.lanes import Lane


def test_no_more_than_its_width_are_inside_and_too_many_are_refused():
    async def scene() -> tuple[int, bool]:
        lane, inside, most = Lane("x", width=2, waiting=3, seconds=10, each=9), 0, 0
        leave = asyncio.Event()

        async def pass_through() -> None:
            nonlocal inside, most
            async with lane.turn():
                inside += 1
                most = max(most, inside)
                await leave.wait()
                inside -= 1

        tasks = [asyncio.create_task(pass_through()) for _ in range(5)]
        await asyncio.sleep(0)
        try:
            async with lane.turn():
                refused = False
        except Unavailable:
            refused = True
        leave.set()
        await asyncio.gather(*tasks)
        return most, refused

    assert asyncio.run(scene()) == (2, True)


def test_one_account_leaves_room_for_the_others():
    async def scene() -> tuple[list[str], int]:
        lane, order, refused = Lane("x", width=2, waiting=10, seconds=10, each=4), [], 0
        leave = asyncio.Event()

        async def pass_through(who: str) -> None:
            nonlocal refused
            try:
                async with lane.turn(who):
                    order.append(who)
                    await leave.wait()
            except Unavailable:
                refused += 1

        tasks = [asyncio.create_task(pass_through("greedy")) for _ in range(6)]
        tasks.append(asyncio.create_task(pass_through("honest")))
        while len(order) < 2:
            await asyncio.sleep(0)
        entered = order.copy()
        leave.set()
        await asyncio.gather(*tasks)
        assert len(order) == 5
        return entered, refused

    assert asyncio.run(scene()) == (["greedy", "honest"], 2)


def test_a_request_that_waits_too_long_is_rejected():
    async def scene() -> None:
        lane = Lane("x", width=1, waiting=3, seconds=0.01, each=9)
        async with lane.turn(), lane.turn():
            pass

    with pytest.raises(Unavailable):
        asyncio.run(scene())


@pytest.mark.parametrize("path", ["/auth/login", "/auth/register/", "/auth/password", "/admin/login/"])
def test_routes_that_hash_a_password_have_a_lane(path):
    assert routes.route_of("POST", path).lane is not None


@pytest.mark.parametrize("method, path", [("POST", "/destinations/"), ("PATCH", "/destinations/mine")])
def test_routes_that_write_to_a_users_server_have_a_lane(method, path):
    assert routes.route_of(method, path).lane is not None

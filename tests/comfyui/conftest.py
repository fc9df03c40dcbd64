from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfyui import Client, History, Session, Subscription, events
from comfyui.events import Event
from tests.comfyui.targets import Graph, Target
from tests.scripted_comfyui import ScriptedComfyUI

PATIENCE = 30.0  # seconds; the first run of a real one loads models


@pytest.fixture
def comfyui_url(comfyui: Any) -> str:
    """A real ComfyUI with the tiny models."""
    return str(comfyui.url)


@pytest.fixture
def scripted() -> Iterator[ScriptedComfyUI]:
    with ScriptedComfyUI() as server:
        yield server


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.comfyui), "scripted"])
def target(request: pytest.FixtureRequest) -> Target:
    """The same test with a real ComfyUI and with the scripted one, which so proves to be like it."""
    if request.param == "real":
        return Target(name="real", url=request.getfixturevalue("comfyui_url"))
    return Target(name="scripted", url=request.getfixturevalue("scripted").url)


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    with Client(target.url) as client:
        yield client


@pytest.fixture
def session(target: Target) -> Iterator[Session]:
    with Session(str(uuid.uuid4()), target.url) as session:
        assert session.wait_connected(PATIENCE)
        yield session


@pytest.fixture
def scripted_client(scripted: ScriptedComfyUI) -> Iterator[Client]:
    with Client(scripted.url) as client:
        yield client


@pytest.fixture
def scripted_session(scripted: ScriptedComfyUI) -> Iterator[Session]:
    with Session(str(uuid.uuid4()), scripted.url) as session:
        assert session.wait_connected(PATIENCE)
        yield session


@pytest.fixture
def prompt_id() -> str:
    return str(uuid.uuid4())


Begin = Callable[[Graph], str]


@pytest.fixture
def begin(client: Client, session: Session) -> Iterator[Begin]:
    """Submit a graph and wait until it runs. What still runs at the end of the test is stopped."""
    begun: list[str] = []

    def submit_and_wait(graph: Graph) -> str:
        prompt_id = str(uuid.uuid4())
        with session.subscribe(prompt_id) as subscription:
            client.submit(prompt=graph, prompt_id=prompt_id, client_id=session.client_id)
            begun.append(prompt_id)
            until(subscription, events.Executing)
        return prompt_id

    yield submit_and_wait
    for each in begun:
        with session.subscribe(each) as subscription:
            client.interrupt(each)
            if client.whereabouts(each) == "running":
                until(subscription, events.Ended)


Run = Callable[[Graph], History]


@pytest.fixture
def run(client: Client, session: Session) -> Run:
    """Run a graph to its end."""

    def submit_and_follow(graph: Graph) -> History:
        prompt_id = str(uuid.uuid4())
        with session.subscribe(prompt_id) as subscription:
            client.submit(prompt=graph, prompt_id=prompt_id, client_id=session.client_id)
            until(subscription, events.Ended)
        history = client.history(prompt_id)
        assert history is not None
        return history

    return submit_and_follow


def until(subscription: Subscription, *kinds: type[Event]) -> list[Any]:
    """All events up to the first of one of these kinds, which is the last of the list."""
    seen: list[Event] = []
    while event := subscription.get(PATIENCE):
        seen.append(event)
        if isinstance(event, kinds):
            return seen
    raise AssertionError(f"no {kinds} among {seen}")

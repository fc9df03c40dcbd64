"""A history assembled from a run's events equals ComfyUI's own history, or there is none."""

from __future__ import annotations

import uuid

import pytest

from comfyui import Recording, events
from tests.comfyui.conftest import until
from tests.comfyui.targets import failing, picture, text


@pytest.fixture
def record(client, session):
    """Run a graph; (the history from its events, ComfyUI's)."""

    def run(graph, output_nodes):
        prompt_id = str(uuid.uuid4())
        recording = Recording(prompt_id, output_nodes=output_nodes)
        with session.subscribe(prompt_id) as subscription:
            client.submit(prompt=graph, prompt_id=prompt_id, client_id=session.client_id)
            for event in until(subscription, events.Ended):
                recording.record(event)
        return recording.history(), client.history(prompt_id)

    return run


def assert_same(recorded, asked):
    for field in ("prompt_id", "outcome", "completed", "outputs", "files", "texts", "started_ms", "ended_ms"):
        assert getattr(recorded, field) == getattr(asked, field), field


def test_it_is_what_comfyui_says(record):
    graph = picture() | text("some words")
    assert_same(*record(graph, ["2", "5"]))


def test_it_has_what_comfyui_had_cached(record):
    graph = picture()
    record(graph, ["2"])
    recorded, asked = record(graph, ["2"])
    assert_same(recorded, asked)
    assert recorded.files


def test_there_is_none_of_a_run_that_failed(record):
    recorded, asked = record(failing(), ["2", "4"])
    assert recorded is None
    assert asked.outcome == "error"


WHOLE = (
    events.Started("p", 1000),
    events.Executed("p", "2", {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}),
    events.Executed("p", "3", {"text": ["words"]}),
    events.Succeeded("p", 2000),
)


def recorded(heard):
    recording = Recording("p", output_nodes=["2", "3"])
    for event in heard:
        recording.record(event)
    return recording.history()


def test_all_events_make_a_history():
    history = recorded(WHOLE)
    assert [file.filename for file in history.files] == ["a.png"]
    assert history.texts == [("3", "words")]
    assert (history.started_ms, history.ended_ms) == (1000, 2000)


@pytest.mark.parametrize("missing", range(len(WHOLE)))
def test_there_is_none_where_an_event_is_missing(missing):
    assert recorded([*WHOLE[:missing], *WHOLE[missing + 1 :]]) is None


@pytest.mark.parametrize("event", [events.Connected("s"), events.Disconnected()])
@pytest.mark.parametrize("position", range(len(WHOLE)))
def test_there_is_none_where_the_connection_changed(event, position):
    assert recorded([*WHOLE[:position], event, *WHOLE[position:]]) is None


def test_there_is_none_where_comfyui_does_not_say_when():
    assert recorded([events.Started("p"), *WHOLE[1:]]) is None

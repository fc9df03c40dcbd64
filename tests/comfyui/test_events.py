from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui import events
from comfyui.events import parse

RECORDED = Path(__file__).parent / "data" / "events_txt2img.jsonl"


def text(kind: str, **data) -> str:
    return json.dumps({"type": kind, "data": data})


@pytest.fixture(scope="module")
def recorded():
    """Every message of one real run."""
    lines = RECORDED.read_text().splitlines()
    return [parse(json.dumps(json.loads(line)["event"])) for line in lines]


class TestARecordedRun:
    def test_every_message_is_understood(self, recorded):
        assert not [event for event in recorded if isinstance(event, events.Unknown)]

    def test_it_begins_with_the_connection(self, recorded):
        assert isinstance(recorded[0], events.Connected)

    def test_it_starts_and_ends_once(self, recorded):
        kinds = [type(event) for event in recorded]
        decisive = {events.Started, events.Cached, events.Succeeded, events.Ended}
        order = [kind for kind in kinds if kind in decisive]
        assert order == [events.Started, events.Cached, events.Succeeded, events.Ended]

    def test_the_last_progress_state_has_every_node_finished(self, recorded):
        last = [event for event in recorded if isinstance(event, events.ProgressState)][-1]
        assert {node.state for node in last.nodes.values()} == {"finished"}

    def test_the_output_is_announced(self, recorded):
        [executed] = [event for event in recorded if isinstance(event, events.Executed)]
        assert executed.output["images"][0]["type"] == "output"


class TestText:
    def test_an_end_is_not_a_beginning(self):
        assert parse(text("executing", node=None, prompt_id="p")) == events.Ended("p")
        assert parse(text("executing", node="5", prompt_id="p")) == events.Executing("p", "5")

    def test_a_node_without_its_prompt_as_sent_after_connecting(self):
        assert parse(text("executing", node="5")) == events.Executing(None, "5")

    def test_the_first_status_has_our_id(self):
        status = {"exec_info": {"queue_remaining": 2}}
        assert parse(text("status", status=status, sid="me")) == events.Connected("me", remaining=2)
        assert parse(text("status", sid="me")) == events.Connected("me")
        assert parse(text("status", status=status)) == events.QueueStatus(2)

    def test_a_failure(self):
        event = parse(
            text(
                "execution_error",
                prompt_id="p",
                node_id="3",
                node_type="SaveImage",
                exception_type="ValueError",
                exception_message="no\n",
                traceback=["line"],
                executed=["1"],
                current_inputs={"big": ["tensor"]},
            )
        )
        assert isinstance(event, events.Failed)
        assert (event.error.node_id, event.error.message, event.error.executed) == ("3", "no", ["1"])

    def test_an_output_node_without_output(self):
        assert parse(text("executed", prompt_id="p", node="1", output=None)) == events.Executed("p", "1", {})

    def test_another_kind_is_kept(self):
        assert parse(text("crystools.monitor", cpu=1)) == events.Unknown("crystools.monitor", {"cpu": 1})

    @pytest.mark.parametrize(
        "message",
        [
            "",
            "nonsense",
            "[]",
            "null",
            "{}",
            '{"type": "status"}',
            '{"type": "progress", "data": {"value": "x"}}',
            '{"type": "progress_state", "data": {"nodes": [], "prompt_id": "p"}}',
            '{"type": "executing", "data": null}',
            "[" * 100_000,
        ],
    )
    def test_nonsense_is_unknown(self, message):
        assert isinstance(parse(message), events.Unknown)


class TestBinary:
    def test_a_preview_without_metadata(self):
        event = parse(struct.pack(">II", 1, 2) + b"image")
        assert event == events.Preview(None, None, "image/png", b"image")

    def test_a_preview_with_metadata(self):
        head = json.dumps({"node_id": "5", "prompt_id": "p", "image_type": "image/jpeg"}).encode()
        event = parse(struct.pack(">II", 4, len(head)) + head + b"image")
        assert event == events.Preview("p", "5", "image/jpeg", b"image")

    def test_a_text_of_a_node(self):
        assert parse(struct.pack(">II", 3, 2) + b"12" + "naïve".encode()) == events.ProgressText(
            "12", "naïve"
        )

    def test_another_kind_is_kept(self):
        message = struct.pack(">I", 99) + b"x"
        assert parse(message) == events.Unknown("binary 99", message)

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\0",
            struct.pack(">I", 1),
            struct.pack(">II", 4, 500) + b"{}",
            struct.pack(">II", 4, 2) + b"{}",
        ],
    )
    def test_nonsense_is_unknown(self, message):
        assert isinstance(parse(message), events.Unknown)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
kinds = st.sampled_from(sorted(events.PARSERS))
fields = st.dictionaries(
    st.sampled_from(["prompt_id", "node", "nodes", "value", "max", "status", "sid", "output"]), json_values
)


@settings(deadline=None)
@given(st.text() | st.binary() | st.builds(lambda kind, data: text(kind, **data), kinds, fields))
def test_it_never_raises(message):
    parse(message)


@settings(deadline=None)
@given(st.sampled_from([1, 3, 4]), st.binary())
def test_it_never_raises_on_a_binary_message(kind, rest):
    parse(struct.pack(">I", kind) + rest)

from __future__ import annotations

import time

import pytest

from comfyui import Client, Refused, Unreachable
from tests.comfyui.targets import Graph, partly_wrong, picture
from tests.scripted_comfyui import ScriptedComfyUI


def submit(client: Client, graph: Graph, prompt_id: str, **options):
    return client.submit(prompt=graph, prompt_id=prompt_id, client_id="somebody", **options)


class TestSubmit:
    def test_it_keeps_our_id(self, client, prompt_id):
        submitted = submit(client, picture(), prompt_id)
        assert (submitted.prompt_id, submitted.node_errors) == (prompt_id, {})

    def test_an_unknown_class_is_refused(self, client, prompt_id):
        with pytest.raises(Refused) as refusal:
            submit(client, {"7": {"class_type": "Nope", "inputs": {}}}, prompt_id)
        assert refusal.value.type == "invalid_prompt"
        assert "Nope" in refusal.value.message
        assert refusal.value.node_errors == {}

    def test_a_graph_without_output_is_refused(self, client, prompt_id):
        with pytest.raises(Refused) as refusal:
            submit(client, {"1": picture()["1"]}, prompt_id)
        assert refusal.value.type == "prompt_no_outputs"

    def test_a_value_out_of_range_is_refused_with_its_node_and_input(self, client, prompt_id):
        with pytest.raises(Refused) as refusal:
            submit(client, picture(width=0), prompt_id)
        assert refusal.value.type == "prompt_outputs_failed_validation"
        errors = refusal.value.node_errors["1"]
        assert (errors.class_type, errors.dependent_outputs) == ("EmptyImage", ["2"])
        assert [(each.type, each.input_name) for each in errors.errors] == [
            ("value_smaller_than_min", "width")
        ]

    def test_every_missing_input_is_named(self, client, prompt_id):
        with pytest.raises(Refused) as refusal:
            submit(client, {"2": {"class_type": "SaveImage", "inputs": {}}}, prompt_id)
        errors = refusal.value.node_errors["2"].errors
        assert {(each.type, each.details) for each in errors} == {
            ("required_input_missing", "images"),
            ("required_input_missing", "filename_prefix"),
        }

    def test_a_partially_accepted_graph_names_what_was_dropped(self, client, prompt_id):
        submitted = submit(client, partly_wrong(), prompt_id)
        assert submitted.prompt_id == prompt_id
        assert submitted.node_errors["8"].dependent_outputs == ["9"]

    def test_the_refusal_keeps_the_answer_as_it_came(self, client, prompt_id):
        with pytest.raises(Refused) as refusal:
            submit(client, {}, prompt_id)
        assert refusal.value.raw["error"]["type"] == "prompt_no_outputs"

    def test_a_graph_that_crashes_comfyuis_validation_is_unreachable_with_500(self, comfyui_url, prompt_id):
        with Client(comfyui_url) as client, pytest.raises(Unreachable) as failure:
            submit(client, {"1": 5}, prompt_id)
        assert (failure.value.status, failure.value.sent) == (500, True)


class TestSubmitToOneInTrouble:
    def test_refused_connection_was_not_sent(self, scripted, scripted_client, prompt_id):
        scripted.stop()
        with pytest.raises(Unreachable) as failure:
            submit(scripted_client, picture(), prompt_id)
        assert failure.value.sent is False

    def test_an_invalid_address_was_not_sent(self, prompt_id):
        with Client("nonsense") as client, pytest.raises(Unreachable) as failure:
            submit(client, picture(), prompt_id)
        assert failure.value.sent is False

    def test_500_after_accepting_may_be_queued(self, scripted, scripted_client, prompt_id):
        scripted.hold()
        scripted.faults.error_after_accepting = 1
        with pytest.raises(Unreachable) as failure:
            submit(scripted_client, picture(), prompt_id)
        assert (failure.value.status, failure.value.sent) == (500, True)
        assert scripted_client.whereabouts(prompt_id) == "queued"

    def test_a_connection_cut_after_accepting_may_be_queued(self, scripted, scripted_client, prompt_id):
        scripted.hold()
        scripted.faults.no_answer_after_accepting = 1
        with pytest.raises(Unreachable) as failure:
            submit(scripted_client, picture(), prompt_id)
        assert (failure.value.status, failure.value.sent) == (None, True)
        assert scripted_client.whereabouts(prompt_id) == "queued"

    def test_one_that_never_answers_is_given_up_after_the_timeout(self, scripted, prompt_id):
        scripted.faults.hang.add("/prompt")
        begun = time.monotonic()
        with Client(scripted.url, timeout=0.2) as client, pytest.raises(Unreachable) as failure:
            submit(client, picture(), prompt_id)
        assert failure.value.sent is True
        assert 0.2 <= time.monotonic() - begun < 8

    def test_nothing_is_sent_twice(self, scripted, scripted_client, prompt_id):
        scripted.faults.no_answer_after_accepting = 1
        with pytest.raises(Unreachable):
            submit(scripted_client, picture(), prompt_id)
        assert len(scripted.submissions) == 1

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"prompt_id": "x"}', b"null"])
    def test_an_answer_that_is_not_comfyuis_is_unreachable(self, scripted, scripted_client, prompt_id, body):
        scripted.faults.body["/prompt"] = body
        with pytest.raises(Unreachable) as failure:
            submit(scripted_client, picture(), prompt_id)
        assert failure.value.sent is True

    @pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 502, 503])
    def test_a_status_from_something_before_it_is_unreachable(
        self, scripted, scripted_client, prompt_id, status
    ):
        scripted.faults.status["/prompt"] = status
        with pytest.raises(Unreachable) as failure:
            submit(scripted_client, picture(), prompt_id)
        assert failure.value.status == status

    def test_a_prompt_that_is_too_large_is_refused(self, scripted, scripted_client, prompt_id):
        scripted.faults.status["/prompt"] = 413
        with pytest.raises(Refused) as refusal:
            submit(scripted_client, picture(), prompt_id)
        assert refusal.value.type == "too_large"


class TestWhatIsSent:
    def test_front_and_extra_data_go_along(self, scripted: ScriptedComfyUI, scripted_client, prompt_id):
        submit(scripted_client, picture(), prompt_id, front=True, extra_data={"mark": "ours"})
        body = scripted.submissions[0].body
        assert (body["front"], body["extra_data"], body["client_id"]) == (True, {"mark": "ours"}, "somebody")

    def test_headers_go_with_every_request(self, scripted):
        with Client(scripted.url, headers={"Authorization": "Bearer x"}) as client:
            client.queue()
        assert scripted.requests[-1].headers["Authorization"] == "Bearer x"

from __future__ import annotations

import pytest

from comfyui import Unreachable, events
from tests.comfyui.conftest import until
from tests.comfyui.targets import failing, partly_wrong, picture, text


class TestHistory:
    def test_a_success_lists_its_files(self, run):
        history = run(picture(prefix="up/x"))
        assert (history.outcome, history.completed, history.error) == ("success", True, None)
        [file] = history.files
        assert (file.subfolder, file.type, file.node_id, file.key) == ("up", "output", "2", "images")
        assert file.filename.startswith("x_")
        assert file.animated is False

    def test_a_success_reports_when_it_ran(self, run):
        history = run(picture())
        assert history.started_ms <= history.ended_ms
        assert history.output_nodes == ["2"]

    def test_texts_are_listed_with_their_node(self, run):
        content = "some text"
        history = run(text(content))
        assert history.texts == [("5", content)]
        assert history.files == []

    def test_a_failure_names_node_and_exception(self, run):
        history = run(failing())
        assert (history.outcome, history.completed) == ("error", False)
        assert (history.error.node_id, history.error.node_type) == ("4", "SaveImage")
        assert history.error.exception_type == "Exception"
        assert "outside the output folder" in history.error.message
        assert history.error.traceback

    def test_a_failure_keeps_what_was_written_before(self, run):
        history = run(failing())
        assert "2" in history.error.executed
        assert [file.node_id for file in history.files] == ["2"]

    def test_an_accepted_part_is_a_success(self, run):
        history = run(partly_wrong())
        assert (history.outcome, history.output_nodes) == ("success", ["2"])

    def test_an_interrupted_one_is_not_an_error(self, target, client, session, begin):
        prompt_id = begin(target.long())
        with session.subscribe(prompt_id) as subscription:
            client.interrupt(prompt_id)
            until(subscription, events.Ended)
        history = client.history(prompt_id)
        assert (history.outcome, history.completed, history.error) == ("interrupted", False, None)

    def test_a_repeated_graph_names_the_old_file(self, run):
        graph = picture()
        assert run(graph).files == run(graph).files

    def test_an_unknown_one_has_none(self, client, prompt_id):
        assert client.history(prompt_id) is None

    def test_one_that_runs_has_none(self, target, client, begin):
        assert client.history(begin(target.long())) is None

    def test_a_deleted_one_has_none(self, client, run):
        history = run(picture())
        client.delete_history(history.prompt_id)
        assert client.history(history.prompt_id) is None

    def test_an_id_that_needs_quoting_is_found(self, client, session):
        prompt_id = "weird id/.. ?"
        with session.subscribe(prompt_id) as subscription:
            client.submit(prompt=picture(), prompt_id=prompt_id, client_id=session.client_id)
            until(subscription, events.Ended)
        assert client.history(prompt_id) is not None

    @pytest.mark.parametrize("body", [b"", b"[]", b'{"ID": 5}', b'{"ID": {"outputs": [1]}}'])
    def test_nonsense_is_unreachable(self, scripted, scripted_client, body):
        scripted.faults.body["/history/ID"] = body
        with pytest.raises(Unreachable):
            scripted_client.history("ID")

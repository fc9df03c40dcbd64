from __future__ import annotations

import pytest

from tests.factories import Api, assert_error, mistakes


class TestQueryParameters:
    @pytest.mark.parametrize(
        "path, name",
        [
            ("/workflows/", "status"),
            ("/workflows/", "limit"),
            ("/files/", "kind"),
            ("/files/", "created_before"),
            ("/models/", "model_type"),
            ("/models/", "available_only"),
        ],
    )
    def test_an_empty_one_is_a_mistake(self, as_alice: Api, path: str, name: str) -> None:
        body = assert_error(as_alice.get(f"{path}?{name}="), 400, "validation_error")
        assert list(mistakes(body)) == [name]

    @pytest.mark.parametrize("flag", ["true", "false", "True", "False", "1", "0"])
    def test_a_flag_is_taken_as_programs_write_it(self, as_alice: Api, flag: str) -> None:
        assert as_alice.get(f"/models/?available_only={flag}").status_code == 200

    @pytest.mark.parametrize("flag", ["yes", "on", "null", "2"])
    def test_a_flag_that_is_something_else_is_a_mistake(self, as_alice: Api, flag: str) -> None:
        body = assert_error(as_alice.get(f"/models/?available_only={flag}"), 400, "validation_error")
        assert list(mistakes(body)) == ["available_only"]

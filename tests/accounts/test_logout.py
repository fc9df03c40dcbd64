from __future__ import annotations

from accounts import api_keys, sessions
from accounts.models import User
from tests.factories import Api, assert_error


def works(pair: sessions.TokenPair) -> tuple[bool, bool]:
    access = Api(pair.access_token).get("/auth/me").status_code == 200
    refreshed = Api().post("/auth/refresh", {"refresh_token": pair.refresh_token}).status_code == 200
    return access, refreshed


class TestLogout:
    def test_it_answers_as_the_reference_says(self, as_alice: Api) -> None:
        response = as_alice.post("/auth/logout")
        assert response.status_code == 200
        assert response.json() == {"message": "Successfully logged out"}

    def test_it_ends_its_own_tokens_at_once_and_nothing_else(self, alice: User) -> None:
        mine, other = sessions.start(user=alice), sessions.start(user=alice)
        Api(mine.access_token).post("/auth/logout")
        assert works(mine) == (False, False)
        assert works(other) == (True, True)

    def test_everywhere_ends_all_sessions_of_the_user_only(self, alice: User, bob: User) -> None:
        mine, other, bobs = (sessions.start(user=user) for user in (alice, alice, bob))
        Api(mine.access_token).post("/auth/logout", {"everywhere": True})
        assert works(mine) == works(other) == (False, False)
        assert works(bobs) == (True, True)

    def test_twice_is_refused(self, as_alice: Api) -> None:
        as_alice.post("/auth/logout")
        assert_error(as_alice.post("/auth/logout"), 401, "unauthorized")

    def test_an_api_key_has_no_session(self, alice: User) -> None:
        _, secret = api_keys.create(user=alice, name="server")
        assert_error(Api(secret).post("/auth/logout"), 403, "forbidden")

    def test_get_is_no_way_to_log_out(self, as_alice: Api) -> None:
        response = as_alice.get("/auth/logout")
        assert_error(response, 405, "method_not_allowed")
        assert response["Allow"] == "POST, OPTIONS"

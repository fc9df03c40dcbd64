from __future__ import annotations

from accounts import api_keys, sessions, throttling
from accounts.models import User
from tests.factories import PASSWORD, Api, assert_error, mistakes

NEW = "another fine battery"


def change(api: Api, current: str = PASSWORD, new: str = NEW):
    return api.post("/auth/password", {"current_password": current, "new_password": new})


class TestPassword:
    def test_it_changes_and_ends_all_sessions(self, alice: User, as_alice: Api) -> None:
        other = sessions.start(user=alice)
        assert change(as_alice).status_code == 200
        assert_error(as_alice.get("/auth/me"), 401, "unauthorized")
        assert_error(Api().post("/auth/refresh", {"refresh_token": other.refresh_token}), 401, "unauthorized")
        alice.refresh_from_db()
        assert alice.check_password(NEW)

    def test_a_direct_database_change_ends_sessions_too(self, alice: User, as_alice: Api) -> None:
        alice.set_password(NEW)
        User.objects.filter(pk=alice.pk).update(password=alice.password)
        assert_error(as_alice.get("/auth/me"), 401, "unauthorized")

    def test_it_wants_the_current_one(self, as_alice: Api) -> None:
        body = assert_error(change(as_alice, current="wrong"), 400, "validation_error")
        assert set(mistakes(body)) == {"current_password"}
        assert as_alice.get("/auth/me").status_code == 200

    def test_guessing_the_current_one_ends_soon(self, as_alice: Api) -> None:
        for _ in range(throttling.FROM_ADDRESS_AT_ACCOUNT.limit):
            change(as_alice, current="wrong")
        assert_error(change(as_alice), 429, "rate_limit_exceeded")

    def test_it_refuses_a_weak_one_and_says_why(self, as_alice: Api) -> None:
        body = assert_error(change(as_alice, new="alice"), 400, "validation_error")
        assert set(mistakes(body)) == {"new_password"}
        assert len(body["details"]) == 3  # too short, too similar, too common

    def test_an_api_key_must_not(self, alice: User) -> None:
        _, secret = api_keys.create(user=alice, name="server")
        assert_error(change(Api(secret)), 403, "forbidden")

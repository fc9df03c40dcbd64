from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from accounts import quotas
from accounts.models import DailyUse, User, UserLimits
from comfyserve.api.errors import LimitExceeded
from tests.factories import make_user


class TestCheckSubmission:
    def test_without_quotas_nothing_is_refused_and_nothing_counted(self, alice: User) -> None:
        quotas.check_submission(user=alice, waiting=10**6)
        assert not DailyUse.objects.exists()

    def test_the_waiting_ones__yes(self, alice: User, settings) -> None:
        settings.QUOTA_EXECUTIONS_WAITING = 3
        quotas.check_submission(user=alice, waiting=2)

    def test_the_waiting_ones__no(self, alice: User, settings) -> None:
        settings.QUOTA_EXECUTIONS_WAITING = 3
        with pytest.raises(LimitExceeded, match="at most 3 executions may be waiting") as refused:
            quotas.check_submission(user=alice, waiting=3)
        assert refused.value.details[0].code == "QUOTA_EXCEEDED"
        assert "executions_waiting" in refused.value.details[0].message
        assert refused.value.headers["Retry-After"] == "60"

    def test_a_users_own_quota_comes_first(self, alice: User, bob: User, settings) -> None:
        settings.QUOTA_EXECUTIONS_WAITING = 3
        UserLimits.objects.create(user=alice, executions_waiting=5)
        UserLimits.objects.create(user=bob, executions_waiting=0)
        quotas.check_submission(user=alice, waiting=4)
        quotas.check_submission(user=bob, waiting=10**6)  # 0: no limit

    def test_those_of_a_day(self, alice: User, settings) -> None:
        settings.QUOTA_EXECUTIONS_PER_DAY = 2
        for _ in range(2):
            quotas.check_submission(user=alice, waiting=0)
        with pytest.raises(LimitExceeded, match="at most 2 executions may be submitted a day") as refused:
            quotas.check_submission(user=alice, waiting=0)
        assert 0 < int(refused.value.headers["Retry-After"]) <= 24 * 3600 + 1

    def test_a_submission_that_is_undone_does_not_count(self, alice: User, settings) -> None:
        settings.QUOTA_EXECUTIONS_PER_DAY = 1
        with transaction.atomic():
            quotas.check_submission(user=alice, waiting=0)
            transaction.set_rollback(True)
        quotas.check_submission(user=alice, waiting=0)

    @pytest.mark.django_db(transaction=True)
    def test_twenty_parallel_ones_keep_to_the_days_quota(self, settings) -> None:
        settings.QUOTA_EXECUTIONS_PER_DAY = 7
        user = make_user("alice")

        def submit(_: int) -> bool:
            try:
                with transaction.atomic():
                    quotas.check_submission(user=user, waiting=0)
            except LimitExceeded:
                return False
            finally:
                connection.close()
            return True

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(submit, range(20))) == 7


class TestOthers:
    def test_storage__yes(self, alice: User, settings) -> None:
        settings.QUOTA_STORAGE_BYTES = 100
        quotas.check_storage(user=alice, used=60, adding=40)

    def test_storage__no(self, alice: User, settings) -> None:
        settings.QUOTA_STORAGE_BYTES = 100
        with pytest.raises(LimitExceeded, match="at most 100 bytes may be stored"):
            quotas.check_storage(user=alice, used=60, adding=41)

    def test_running_at_once(self, alice: User, bob: User, settings) -> None:
        settings.QUOTA_EXECUTIONS_RUNNING = 2
        UserLimits.objects.create(user=alice, executions_running=5, highest_priority="low")
        assert quotas.running_at_once(user_id=alice.pk) == 5
        assert quotas.running_at_once(user_id=bob.pk) == 2
        assert quotas.highest_priority(user=alice) == "low"
        assert quotas.highest_priority(user=bob) is None

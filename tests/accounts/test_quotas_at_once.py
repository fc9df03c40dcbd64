"""Quotas hold against parallel submissions, through a real web process."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from script.harness import graphs


def test_twenty_submissions_at_once_keep_to_the_quota_of_waiting_ones(stack):
    stack.stop_workers()  # what one takes does not wait any more
    person = stack.person("greedy")
    stack.sql(
        "INSERT INTO accounts_userlimits (user_id, executions_waiting, rate_limits, highest_priority) "
        "SELECT id, 5, '', '' FROM accounts_user WHERE email = %s",
        person.email,
    )

    def submit(number: int) -> tuple[int, str]:
        answer = person.post("/workflows/execute", {"workflow": graphs.colour(number)})
        return answer.status_code, answer.json().get("message", "")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(submit, range(20)))
    assert Counter(status for status, _ in answers) == {200: 5, 429: 15}
    for _, message in (answer for answer in answers if answer[0] == 429):
        assert "at most 5 executions may be waiting" in message
    waiting = stack.sql(
        "SELECT count(*) FROM workflows_execution e JOIN accounts_user u ON u.id = e.user_id "
        "WHERE u.email = %s AND status = 'pending'",
        person.email,
    )
    assert waiting == [(5,)]
    for execution in person.get("/workflows/").json():
        assert person.post(f"/workflows/{execution['execution_id']}/cancel").status_code == 200

"""Response times of the console's pages: with an empty table and with a million ended executions.

    .venv/bin/python -m benchmarks.console [--executions 1000000]

A real PostgreSQL, Valkey and web process. Each page is requested several times; the first request is reported
separately, since it reads the whole day and later ones only what is new.
"""

from __future__ import annotations

import statistics
import time

import psycopg
import requests

from benchmarks.health import ENDED, FIGURES
from benchmarks.services import Services, command_line, print_table, say

ASKED = 10  # requests per page
LIST = "/admin/workflows/execution/"
PAGES = {
    "dashboard": "/admin/dashboard/live/",
    "executions": LIST,
    "page 20 of them": f"{LIST}?p=20",
    "only failed": f"{LIST}?status__exact=failed",
    "only cancelled (none)": f"{LIST}?status__exact=cancelled",
    "of one worker": f"{LIST}?worker=gpu-1",
    "by a cause (none)": f"{LIST}?cause=timeout",
    "search: user": f"{LIST}?q=bench",
    "search: error (none)": f"{LIST}?q=nothing+like+this",
}
OPERATOR = "operator@example.com"
PASSWORD = "correct horse battery"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    options = parser.parse_args()
    with Services() as services:
        from script.harness import graphs

        stack = services.start_stack()
        stack.manage(
            "createsuperuser", "--noinput", "--email", OPERATOR, "--username", "operator",
            env={"DJANGO_SUPERUSER_PASSWORD": PASSWORD},
        )  # fmt: skip
        session = _logged_in(stack.url)
        original = stack.person("bench").execute(graphs.colour(1))
        stack.sql("INSERT INTO workflows_worker (name, host, pid, url, state, reachable, comfyui_version, boot,"
                  " devices, gpus, idle, started_at, heartbeat_at) VALUES ('gpu-1', 'h', 1, 'http://x', 'active',"
                  " true, '', '', '[]', '[]', false, now(), now())")  # fmt: skip
        empty = {name: _times(session, stack.url + path) for name, path in PAGES.items()}
        say(f"making {options.executions:,} executions")
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            connection.execute(ENDED, {"number": options.executions, "original": original})
            connection.execute(FIGURES)
            connection.execute("VACUUM ANALYZE")
        stack.start_web(env={})  # a fresh process with empty caches
        session = _logged_in(stack.url)
        full = {name: _times(session, stack.url + path) for name, path in PAGES.items()}
        rows = [(name, *empty[name], *full[name]) for name in PAGES]
        print_table(
            [
                "page, ms",
                "empty: first",
                "median",
                "worst",
                f"{options.executions:,}: first",
                "median",
                "worst",
            ],
            rows,
        )


def _logged_in(url: str) -> requests.Session:
    session = requests.Session()
    page = session.get(f"{url}/admin/login/", timeout=30)
    assert page.status_code == 200, page.text
    account = {
        "username": OPERATOR,
        "password": PASSWORD,
        "csrfmiddlewaretoken": session.cookies["csrftoken"],
    }
    answer = session.post(f"{url}/admin/login/", account, timeout=30, allow_redirects=False)
    assert answer.status_code == 302, answer.text
    return session


def _times(session: requests.Session, url: str) -> tuple[float, float, float]:
    """(the first, the median and the worst of the others), in milliseconds."""

    def ask() -> float:
        began = time.perf_counter()
        answer = session.get(url, timeout=60)
        assert answer.status_code == 200, answer.text
        return (time.perf_counter() - began) * 1000

    first = ask()
    took = []
    for _ in range(ASKED):
        time.sleep(1.05 if "dashboard" in url else 0.0)  # some figures are shared for a second
        took.append(ask())
    return first, statistics.median(took), max(took)


if __name__ == "__main__":
    main()

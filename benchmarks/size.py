"""Cost of each endpoint with a large table, relative to a small one.

    .venv/bin/python -m benchmarks.size [--executions 1000000] [--rounds 40]

A real PostgreSQL and the views, called without a server. First with 1,000 ended executions in the table,
100 of them the requesting user's; then with --executions, a tenth of them that user's. Median of `--rounds` calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.retention import EXECUTIONS
from benchmarks.services import Services, command_line, percentile, print_table, say

SMALL = 1_000
USERS = 10
PATHS = (
    "/workflows/",
    "/workflows/?limit=100",
    "/workflows/?status=completed",
    "/workflows/?status=completed&offset=1000",
    "/workflows/?status=failed",
    "/workflows/?status=running",
    "/workflows/{id}",
    "/workflows/{id}/status",
    "/workflows/{id}/logs",
    "/files/",
    "/files/?kind=upload",
    "/files/?offset=1000",
)
FILES = """
    INSERT INTO files_file (id, user_id, kind, filename, description, content_type, size, sha256, key,
        thumbnail_key, created_at)
    SELECT 'file_' || replace(e.id::text, '-', ''), e.user_id, 'output', 'a.png', '', 'image/png', 1000,
        md5(e.id::text), e.id::text, '', e.completed_at FROM workflows_execution e
    ON CONFLICT DO NOTHING
"""


def fill(*, executions: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(EXECUTIONS, [executions // USERS])
        cursor.execute(
            "INSERT INTO workflows_graph (execution_id, submitted, prompt)"
            " SELECT id, '{}', '{}' FROM workflows_execution ON CONFLICT DO NOTHING"
        )
        cursor.execute(FILES)
        cursor.execute("VACUUM ANALYZE")


def measure(get: Callable[[str], object], *, rounds: int) -> dict[str, float]:
    """Path → median milliseconds; the paths are asked in turn."""
    taken: dict[str, list[float]] = {path: [] for path in PATHS}
    for _ in range(rounds):
        for path in PATHS:
            began = time.perf_counter()
            get(path)
            taken[path].append(1000 * (time.perf_counter() - began))
    return {path: percentile(values, 0.5) for path, values in taken.items()}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with Services(durable=False, env={"LOG_LEVEL": "WARNING"}) as services:
        services.set_up_django()
        from accounts.models import User
        from tests.factories import Api
        from workflows.models import Execution

        people = [User(username=f"user{n}", email=f"user{n}@example.com") for n in range(USERS)]
        User.objects.bulk_create(people)
        api = Api.of(User.objects.get(username="user0"))

        def get(path: str) -> object:
            response = api.get(path.replace("{id}", str(latest)))
            assert response.status_code == 200, response.content
            return response

        figures = []
        for number in (SMALL, options.executions - SMALL):
            say(f"adding {number:,} executions")
            fill(executions=number)
            latest = Execution.objects.filter(user__username="user0").latest("created_at").id
            measure(get, rounds=5)
            figures.append(measure(get, rounds=options.rounds))
    small, large = figures
    rows = [[path, small[path], large[path], large[path] / small[path]] for path in PATHS]
    print_table(["ms", f"{SMALL:,}", f"{options.executions:,}", "ratio"], rows)


if __name__ == "__main__":
    main()

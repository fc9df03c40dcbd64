"""Cost of each request with a large table, relative to a small one.

    .venv/bin/python -m benchmarks.size [--executions 1000000] [--rounds 15]

Two databases in one PostgreSQL, each with a process that calls the views without a server. The large one has
--executions ended executions, a tenth of them the requesting user's. The small one has 2,100, of which 1,200 are
that user's, so that each page is equally full in both, `offset=1000` included. In each round both are asked the
same, one right after the other: what else the machine does affects both. The ratio is the median of the rounds'.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from multiprocessing.connection import Connection

from benchmarks.ended_executions import USERS, fill
from benchmarks.services import Services, command_line, print_table, say

SMALL = {"own": 1_200, "others": 100}
WARM_UP = 3  # rounds that are not counted
RETENTION_ROUNDS = 10  # each deletes a hundred executions


def serve(far: Connection, database_url: str, redis_url: str, size: dict[str, int]) -> None:
    """Fill the database, then make each request that is named, and send the milliseconds it took."""
    os.environ.update(DATABASE_URL=database_url, REDIS_URL=redis_url)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    fill(**size)
    from benchmarks.size_requests import Requests

    requests = Requests()
    far.send((list(requests.in_rounds), list(requests.at_the_end)))
    while name := far.recv():
        far.send(requests.milliseconds(name))


class Database:
    """One of the two, with its process."""

    def __init__(self, services: Services, *, name: str, number: int, size: dict[str, int]) -> None:
        services.postgres.create_database(name)
        self.near, far = multiprocessing.Pipe()
        urls = services.postgres.url(name), services.valkey.url(number)
        self.process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(far, *urls, size), daemon=True
        )
        self.process.start()
        far.close()
        self.names: tuple[list[str], list[str]] = self.near.recv()

    def milliseconds(self, name: str) -> float:
        self.near.send(name)
        return float(self.near.recv())

    def end(self) -> None:
        self.near.send("")
        self.process.join(10)


def measure(
    small: Database, large: Database, names: list[str], *, rounds: int, warm_up: int
) -> list[list[object]]:
    """For each request: name, median milliseconds of both, and the median of the rounds' ratios."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(warm_up + rounds):
        for name in names:
            taken[name].append((small.milliseconds(name), large.milliseconds(name)))
    return [[name, *summary(pairs[warm_up:])] for name, pairs in taken.items()]


def summary(pairs: list[tuple[float, float]]) -> list[float]:
    smalls, larges = zip(*pairs, strict=True)
    ratio = statistics.median(large / small for small, large in pairs)
    return [statistics.median(smalls), statistics.median(larges), ratio]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    each = options.executions // USERS
    env = {"LOG_LEVEL": "ERROR", "QUOTA_STORAGE_BYTES": str(10**15)}  # counted, but never reached
    with Services(durable=False, env=env) as services:
        say("filling the small database")
        small = Database(services, name="small", number=1, size=SMALL)
        say(f"filling the large one with {options.executions:,} executions")
        large = Database(services, name="large", number=2, size={"own": each, "others": each})
        say("measuring")
        in_rounds, at_the_end = small.names
        rows = measure(small, large, in_rounds, rounds=options.rounds, warm_up=WARM_UP)
        rows += measure(small, large, at_the_end, rounds=RETENTION_ROUNDS, warm_up=1)
        for database in (small, large):
            database.end()
    few = SMALL["own"] + (USERS - 1) * SMALL["others"]
    print_table(["ms", f"{few:,}", f"{options.executions:,}", "ratio"], rows)


if __name__ == "__main__":
    main()

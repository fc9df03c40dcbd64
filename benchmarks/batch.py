"""A batch of 1,000 compared with 1,000 single posts: seconds, processor time and SQL statements.

No worker takes what is submitted. One client sends single posts one after the other, over one connection. The
statements are counted by PostgreSQL in a second round, which is not timed.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of benchmarks/, whose queue.py would hide Python's own

import argparse  # noqa: E402
import re  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402

import psycopg  # noqa: E402

from benchmarks.processor import groups, used  # noqa: E402
from benchmarks.services import DATABASE, Services, print_table, say  # noqa: E402
from script.harness import graphs  # noqa: E402
from script.harness.stack import Person, Stack  # noqa: E402

STATEMENT = re.compile(r"LOG: +(?:statement|execute [^:]*): (?!BEGIN|COMMIT|SAVEPOINT|RELEASE)")
BEGIN = re.compile(r"LOG: +(?:statement|execute [^:]*): BEGIN")


def post_batch(person: Person, number: int) -> None:
    """`number` executions in one request."""
    inputs = [{"1.color": color} for color in range(number)]
    person.post("/workflows/batch", {"workflow": graphs.colour(0), "inputs": inputs}).raise_for_status()


def post_singly(person: Person, number: int) -> None:
    """The same in as many requests."""
    for color in range(number):
        person.post("/workflows/execute", {"workflow": graphs.colour(color)}).raise_for_status()


@contextmanager
def logged(services: Services, log: Path) -> Iterator[list[str]]:
    """The lines that PostgreSQL writes meanwhile, with every statement among them; filled at the end."""
    lines: list[str] = []
    with psycopg.connect(services.postgres.url(DATABASE), autocommit=True) as connection:

        def log_statements(which: str) -> None:
            connection.execute(f"ALTER SYSTEM SET log_statement = '{which}'")
            connection.execute("SELECT pg_reload_conf()")
            time.sleep(1)  # sessions read it before their next statement

        log_statements("all")
        before = log.stat().st_size
        yield lines
        with log.open("rb") as file:
            file.seek(before)
            lines += file.read().decode(errors="replace").splitlines()
        log_statements("none")


def measure(
    services: Services, stack: Stack, post: Callable[[Person, int], None], number: int, log: Path
) -> list[object]:
    """[seconds, ms of the web process and of PostgreSQL, transactions, statements]."""
    person = stack.person()
    post(person, 1)  # warms up
    watched = groups(stack)
    before = {name: used(processes) for name, processes in watched.items()}
    began = time.perf_counter()
    post(person, number)
    seconds = time.perf_counter() - began
    web, postgres = (1000 * (used(watched[name]) - before[name]) for name in ("web", "postgres"))
    with logged(services, log) as lines:
        post(person, number)
    counted = [sum(bool(pattern.search(line)) for line in lines) for pattern in (BEGIN, STATEMENT)]
    return [seconds, web, postgres, *counted]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=1000, help="executions (default 1000, the most)")
    options = parser.parse_args()
    with Services() as services:
        say("starting the services")
        stack = services.start_stack()
        log = services.folder / "logs" / "postgres.log"
        rows: list[list[object]] = []
        for what, post in (("one batch", post_batch), ("single posts", post_singly)):
            say(what)
            rows.append([what, *measure(services, stack, post, options.number, log)])
        head = ["seconds", "web, ms CPU", "PostgreSQL, ms CPU", "transactions", "statements"]
        print_table([f"{options.number} executions", *head], rows)


if __name__ == "__main__":
    main()

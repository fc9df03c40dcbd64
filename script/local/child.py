"""Become another program that dies when its parent does: child --parent PIDFILE [--user NAME] [--only NAME,…]
-- COMMAND

supervisord starts everything through this. If it is killed without a chance to stop its programs, the
kernel stops them. `--only` passes on just these environment variables.
"""

from __future__ import annotations

import argparse
import os
import pwd
import signal
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from script.local.parents import die_with_parent  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=Path, required=True)
    parser.add_argument("--user")
    parser.add_argument("--only")
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    parent = int(options.parent.read_text())  # it may have died already, and getppid() name another process
    if options.user:
        account = pwd.getpwnam(options.user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # After the change of user, which would reset it.
    die_with_parent(parent, signal.Signals[options.signal])
    env = dict(os.environ)
    if options.only is not None:
        env = {name: env[name] for name in options.only.split(",") if name in env}
    os.execve(options.command[0], options.command, env)


if __name__ == "__main__":
    main()

"""Entry point of every command: set up what is missing, then continue inside the virtual environment.

python script/local COMMAND [arguments]        (script/COMMAND does this)
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from script.local import setup  # noqa: E402
from script.local.console import UserError, advice  # noqa: E402
from script.local.paths import VENV  # noqa: E402

COMMANDS = {
    name: name
    for name in ("setup", "check", "test", "faults", "attack", "worker", "run", "serve", "demo", "manage")
}
COMMANDS["comfyui"] = "comfyui_run"


def main() -> int:
    command, arguments = sys.argv[1], sys.argv[2:]
    # Bytecode makes every later start of every process several seconds faster.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    helping = bool({"-h", "--help"} & set(arguments))
    if command not in ("setup", "comfyui") and not helping:  # these two need only Python
        _enter_environment(command, arguments)
    module = importlib.import_module(f"script.local.{COMMANDS[command]}")
    return int(module.main(arguments) or 0)


def _enter_environment(command: str, arguments: list[str]) -> None:
    """Restart under the virtual environment's Python, unless already running there.

    `worker`, `run` and `manage` also work where the packages were installed differently: there they run
    without restarting.
    """
    inside = Path(sys.prefix) == VENV
    if command in ("worker", "run", "manage"):
        if inside or (not VENV.exists() and importlib.util.find_spec("celery")):
            return
        if not VENV.exists():
            setup.ensure()
    else:
        setup.ensure(dev=command in ("check", "test", "faults", "attack"))
    if not inside:
        python = str(VENV / "bin" / "python")
        os.execv(python, [python, str(Path(__file__).parent), command, *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        hint = advice(error)
        if hint is None:
            raise
        print(f"\n{hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

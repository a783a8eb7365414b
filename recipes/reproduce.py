"""Make a finished run again from its lock, and say of every number whether it came out the same.

python recipes/reproduce.py runs/helpdesk-lora
python recipes/reproduce.py runs/helpdesk-lora --run_dir /tmp/helpdesk-again --yes
python recipes/reproduce.py my-account/helpdesk-lora

A lock and a config from elsewhere are data: what will be run is shown before it starts, no code of a checkpoint is
run without --trust_remote_code, files outside the working folder are read only with --allowed_folders, and no token
is given to the process that trains.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.children import run_child
from startup_llm.command_line import parse_config
from startup_llm.config import ReproduceConfig
from startup_llm.errors import UserError, run_recipe
from startup_llm.run_folder import read_run_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from startup_llm.runs.reproduction import Reproduction


def main() -> None:
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words[0] = f"--run={words[0]}"
    config, _, _ = parse_config(ReproduceConfig, words)

    from startup_llm.runs.reproduction import plan_reproduction

    reproduction = plan_reproduction(config, Path(__file__).parent)
    confirm(reproduction, config)
    check_inputs(reproduction)
    print(f"reproduces {config.run} in {reproduction.new_run}", flush=True)
    done = run_child(reproduction.command, env=reproduction.build_environment())
    if done.returncode != 0:
        sys.exit(done.returncode)
    sys.exit(report(reproduction.lock, read_run_lock(reproduction.new_run)))


def confirm(reproduction: "Reproduction", config: ReproduceConfig) -> None:
    if not config.yes and not sys.stdin.isatty():
        raise UserError(
            f"what {config.run} runs is shown before it starts, and there is no terminal to answer at; "
            "read its config.yaml and run.lock.json, then add --yes"
        )
    print(reproduction.describe(), flush=True)
    if not config.yes:
        print("run this? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.exit("nothing was run")


def check_inputs(reproduction: "Reproduction") -> None:
    from startup_llm.evaluation.environment import describe_code, describe_environment
    from startup_llm.runs import reproduction as runs

    name, lock, config = reproduction.name, reproduction.lock, reproduction.config
    changed, notes = runs.find_changed_files(reproduction.run, lock, config)
    changed = changed or runs.find_changed_rows(lock, config)
    if changed:
        raise UserError(f"{name} was made from other files: {'; '.join(changed)}; nothing was trained")
    print(f"data and checkpoint are those that {name} was made from")
    now = {"code": describe_code(), "environment": describe_environment()}
    notes += runs.find_changed_environment(lock, now, threads=False)
    print(*(f"warning: {note}" for note in notes), sep="\n", end="\n" if notes else "")


def report(lock: "Mapping[str, Any]", new: "Mapping[str, Any]") -> int:
    from startup_llm.runs import reproduction as runs

    changed = runs.find_changed_environment(lock, new)
    exact = lock["exact"] and not changed
    for line in changed:
        print(f"differs: {line}")
    if exact:
        print("same code, packages, machine and threads: the numbers have to be exactly equal")
    else:
        why = "not the same environment" if changed else "this device's kernels do not give the same numbers twice"
        print(f"{why}: each number has to lie within its tolerance")
    checks = runs.compare_metrics(lock, new, exact=exact)
    print(*checks, *runs.compare_outputs(lock, new), sep="\n")
    other_rows = runs.compare_rows(lock, new)
    print(*other_rows, sep="\n", end="\n" if other_rows else "")
    outside = [check for check in checks if not check.inside]
    equal = sum(check.value == check.expected for check in checks)
    print(f"{len(checks)} numbers: {equal} exactly equal, {len(checks) - len(outside)} inside, {len(outside)} outside")
    return 1 if outside or other_rows else 0


if __name__ == "__main__":
    run_recipe(main)

"""Make a finished run again from its lock, and say of every number whether it came out the same.

python recipes/reproduce.py runs/helpdesk-lora
python recipes/reproduce.py runs/helpdesk-lora --run_dir /tmp/helpdesk-again
python recipes/reproduce.py my-account/helpdesk-lora
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import AlignConfig, FinetuneConfig, PretrainConfig, ReproduceConfig
from startup_llm.errors import UserError, run_recipe
from startup_llm.run_folder import read_run_lock

CONFIGS = {"finetune.py": FinetuneConfig, "align.py": AlignConfig, "pretrain.py": PretrainConfig}
"""Recipes whose runs can be made again, and their configs."""


def main() -> None:
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words[0] = f"--run={words[0]}"
    config, _, _ = parse_config(ReproduceConfig, words)

    from startup_llm.runs import lock as run_lock

    run = run_lock.load_run_folder(config.run, config.revision)
    lock, run = read_run_lock(run), run.absolute()
    name = Path(config.run).name
    beside = run.parent if Path(config.run).exists() else Path("runs")
    new_run = Path(config.run_dir or beside / f"{name}-again").absolute()
    if new_run == run:
        raise UserError(f"run_dir {config.run_dir} is the run itself; name another, so that both can be compared")
    run_lock.check_schema(lock)
    if lock["recipe"] not in CONFIGS:
        raise UserError(f"{config.run} was made by {lock['recipe']}; expected a run of {', '.join(CONFIGS)}")
    os.chdir(run_lock.find_working_folder(run, lock))
    words = ["--config", os.path.relpath(run / "config.yaml"), *list_options(lock, new_run, config.overwrite)]
    check_inputs(config.run, run, lock, words)

    recipe = Path(__file__).with_name(lock["recipe"])
    launch = [sys.executable]
    if (processes := lock["environment"]["processes"]) > 1:
        on_cpu = ["--cpu"] if lock["plan"]["device"] == "cpu" else []
        launch += ["-m", "accelerate.commands.launch", "--num_processes", str(processes), *on_cpu]
    print(f"makes {config.run} again in {new_run}", flush=True)
    done = subprocess.run([*launch, str(recipe), *words], env=run_lock.build_environment(lock), check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    sys.exit(report(lock, read_run_lock(new_run)))


def list_options(lock: dict, new_run: Path, overwrite: bool) -> list[str]:
    options = {**lock["overrides"], "run_dir": str(new_run), "overwrite": overwrite, "resume": False}
    return [f"--{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in options.items()]


def check_inputs(name: str, run: Path, lock: dict, words: list[str]) -> None:
    from startup_llm.evaluation.environment import describe_code, describe_environment
    from startup_llm.runs import lock as run_lock

    if not (run / "config.yaml").is_file():
        raise UserError(f"no config.yaml in {name}; copy the whole run")
    config, _, _ = parse_config(CONFIGS[lock["recipe"]], words, train_section=True)
    changed, notes = run_lock.find_changed_files(run, lock, config)
    changed = changed or run_lock.find_changed_rows(lock, config)
    if changed:
        raise UserError(f"{name} was made from other files: {'; '.join(changed)}; nothing was trained")
    print(f"data and checkpoint are those that {name} was made from")
    now = {"code": describe_code(), "environment": describe_environment()}
    notes += run_lock.find_changed_environment(lock, now, threads=False)
    print(*(f"warning: {note}" for note in notes), sep="\n", end="\n" if notes else "")


def report(lock: dict, new: dict) -> int:
    from startup_llm.runs import lock as run_lock

    changed = run_lock.find_changed_environment(lock, new)
    exact = lock["exact"] and not changed
    for line in changed:
        print(f"differs: {line}")
    if exact:
        print("same code, packages, machine and threads: the numbers have to be exactly equal")
    else:
        why = "not the same environment" if changed else "this device's kernels do not give the same numbers twice"
        print(f"{why}: each number has to lie within its tolerance")
    checks = run_lock.compare_metrics(lock, new, exact=exact)
    print(*checks, *run_lock.compare_outputs(lock, new), sep="\n")
    outside = [check for check in checks if not check.inside]
    equal = sum(check.found == check.expected for check in checks)
    print(f"{len(checks)} numbers: {equal} exactly equal, {len(checks) - len(outside)} inside, {len(outside)} outside")
    return 1 if outside else 0


if __name__ == "__main__":
    run_recipe(main)

"""Put the runs of a cross-validation together, each row judged by the model that did not see its fold.

python recipes/pool_folds.py --runs '[runs/fold-1,runs/fold-2,runs/fold-3,runs/fold-4,runs/fold-5]'
"""

import shlex
import sys

from startup_llm.command_line import parse_config
from startup_llm.config import PoolConfig
from startup_llm.errors import run_recipe
from startup_llm.run_folder import RESULTS, RunFolder
from startup_llm.training.processes import require_one_process


def main() -> None:
    config, _, config_text = parse_config(PoolConfig)
    require_one_process("recipes/pool_folds.py")
    with RunFolder(config.run_dir, overwrite=config.overwrite, resume=False, config=config) as run:
        pool(config, config_text, run)


def pool(config: PoolConfig, config_text: str, run: RunFolder) -> None:
    from startup_llm.runs.cross_validation import build_table, pool_folds

    pooled = pool_folds(config.runs, config.evaluation)
    command = shlex.join(["python", "recipes/pool_folds.py", *sys.argv[1:]])
    table = build_table(pooled)
    run.write_text("config.yaml", config_text)
    run.write_text("table.md", table)
    run.write_json(RESULTS, {**pooled, "command": command})
    run.finish()
    print(table)


if __name__ == "__main__":
    run_recipe(main)

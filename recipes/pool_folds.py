"""Put the runs of a cross-validation together, each row judged by the model that did not see its fold.

python recipes/pool_folds.py --runs '[runs/fold-1,runs/fold-2,runs/fold-3,runs/fold-4,runs/fold-5]'
"""

import sys

from startup_llm.command_line import open_session
from startup_llm.config import PoolConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.run_folder import RESULTS
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, PoolConfig, Reporter(sys.stdout), one_process=True) as session:
        pool(session)


def pool(session: Session[PoolConfig]) -> None:
    from startup_llm.runs.cross_validation import build_table, pool_folds

    run = session.run
    pooled = pool_folds(session.config.runs, session.config.evaluation)
    table = build_table(pooled)
    run.write_text("config.yaml", session.config_text)
    run.write_text("table.md", table)
    run.write_json(RESULTS, {**pooled, "command": session.command})
    run.finish()
    session.report(table)


if __name__ == "__main__":
    run_recipe(main)

"""Choose which rows of a pool without labels to label next, for a finished run's model.

python recipes/suggest.py --run runs/helpdesk-lora --pool unlabelled.csv --rows 50
python recipes/suggest.py --run runs/helpdesk-lora --pool messages.jsonl --rows 100 --output round-2
"""

import sys

from startup_llm.command_line import read_session
from startup_llm.config import SuggestConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    suggest(read_session(__file__, SuggestConfig, Reporter(sys.stdout), one_process=True))


def suggest(session: Session[SuggestConfig]) -> None:
    from startup_llm.runs import suggestions
    from startup_llm.training.processes import hide_library_bars

    config = session.config
    hide_library_bars()
    task, model, results, folder = suggestions.check_suggestions(config)
    with session.stage("pool"):
        pool = suggestions.read_pool(config, task, results)
    session.report(f"{pool.name}: {len(pool.numbers):,} rows", *pool.notes)

    with session.stage("suggestions"):
        chosen = suggestions.suggest_rows(config, task, model, results, pool)
    suggestions.write_suggestions(folder, chosen)
    session.report(*chosen.notes)
    session.report(
        f"{len(chosen.rows)} rows to label: {folder}/suggestions.csv",
        f"fill in its column label, or import {folder}/label_studio.json into Label Studio with the interface "
        f"{folder}/label_studio.xml; then train with both files: --data.train_file '[OLD, NEW]'",
    )


if __name__ == "__main__":
    run_recipe(main)

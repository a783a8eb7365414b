"""Measure a checkpoint on a data set, a suite or lm-eval's tasks, with intervals and paired tests.

python recipes/evaluate.py --model runs/helpdesk-lora
python recipes/evaluate.py --model runs/banking77-lora --suite intents --only '[banking77]' --fail_under accuracy=0.93
python recipes/evaluate.py --model runs/helpdesk-full --fail_if_worse_than runs/helpdesk-lora
python recipes/evaluate.py --run runs/helpdesk-lora --input week.csv --fail_under accuracy=0.9 --gate lower
python recipes/evaluate.py --model runs/gpt --lm_tasks '[my_task]' --lm_task_folder tasks
"""

import sys
from pathlib import Path

from startup_llm.command_line import open_session
from startup_llm.config import EvaluateConfig
from startup_llm.console import import_library_behind
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.run_folder import RESULTS
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, EvaluateConfig, Reporter(sys.stdout), name_run=name_run, one_process=True) as session:
        failures = evaluate(session)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def name_run(config: EvaluateConfig) -> str:
    measured = Path(config.measured.rstrip("/").removesuffix("/model")).name
    rows = Path(config.input or config.suite or "test").name.partition(".")[0]
    return f"runs/{measured}-on-{rows}"


def evaluate(session: Session[EvaluateConfig]) -> list[str]:
    """Measure, write the tables, and return what was missed."""
    from startup_llm.evaluation import suites
    from startup_llm.runs import measurement
    from startup_llm.runs.summary import show_evaluation
    from startup_llm.training.processes import hide_library_bars

    hide_library_bars()
    config, run = session.config, session.run
    limits = suites.parse_limits(config.fail_under)
    others = measurement.list_runs_to_beat(config)

    entries = []
    if config.lm_tasks:
        with session.stage("lm-eval"):
            entries = measurement.measure_language_model(config)
    else:
        listed = measurement.list_entries(config, session.recipe.with_name("suites"))
        measurement.check_limits(limits, config)
        for entry in listed:
            with session.stage(entry.name):
                entries.append(measurement.measure_entry(entry, session, others))

    comparisons = [(entry["name"], test) for entry in entries for test in entry.get("comparisons", ())]
    sentences = [f"{entry['name']}: {sentence}" for entry in entries for sentence in entry.get("sentences", ())]
    worse = suites.find_worse(config.fail_if_worse_than, comparisons)
    results = {
        "model": entries[0]["model"] if config.run else config.model,
        "entries": entries,
        "sentences": sentences + [f"{name}: {test['sentence']}" for name, test in comparisons],
        "failed": suites.find_missed(limits, entries, config.gate) + worse,
        **session.describe_process(),
    }
    run.write_text("config.yaml", session.config_text)
    run.write_text("table.md", suites.build_markdown(results))
    run.write_text("table.html", suites.build_page(results))
    run.write_json(RESULTS, results)
    run.finish()
    show_evaluation(session, results)
    return results["failed"]


if __name__ == "__main__":
    run_recipe(main)
elif __name__ == "evaluate":  # the library of that name is meant, and this folder stands before it on the path
    import_library_behind(__file__)

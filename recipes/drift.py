"""Test whether the rows that come in differ from those that a finished run was measured on.

python recipes/drift.py --run runs/helpdesk-lora --input new.csv
python recipes/drift.py --run runs/helpdesk-lora --statistics served.jsonl --fail_on_change
"""

import sys

from startup_llm.command_line import read_session
from startup_llm.config import DriftConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    changed = compare(read_session(__file__, DriftConfig, Reporter(sys.stdout), one_process=True))
    sys.exit(1 if changed else 0)


def compare(session: Session[DriftConfig]) -> bool:
    """Write the comparison, and return whether a change was found that is to fail."""
    from startup_llm.runs import drift
    from startup_llm.training.processes import hide_library_bars

    config = session.config
    hide_library_bars()
    task, model, run_results, folder = drift.check_drift(config)
    reference = drift.read_reference(config.run)
    with session.stage("rows"):
        if config.statistics is not None:
            new, notes = drift.read_statistics(config.statistics), []
        else:
            new, notes = drift.measure_rows(config, task, model, run_results, reference)
    session.report(f"{config.input or config.statistics}: {new.rows:,} rows", *notes)

    with session.stage("tests"):
        results = {**drift.compare_rows(config, reference, new), "command": session.command}
    drift.write_comparison(folder, results)
    changed = [change for change in results["changes"] if change["changed"]]
    for change in results["changes"]:
        verdict = "changed" if change["changed"] else "no change found"
        shown = change["details"][:3] if change["changed"] else []
        session.report(f"{change['name']}: {verdict}, p = {change['adjusted_p_value']:.3g}; {change['size']}", *shown)
    session.report(*results["notes"], *results["sentences"], f"comparison: {folder}/drift.html, {folder}/drift.json")
    return bool(changed) and config.fail_on_change


if __name__ == "__main__":
    run_recipe(main)

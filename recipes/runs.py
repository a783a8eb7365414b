"""List all runs with their figures, rows and origin, and name the one in production.

python recipes/runs.py
python recipes/runs.py --production runs/helpdesk-lora-2026-11-29
python recipes/runs.py --rollback
"""

import sys

from startup_llm.command_line import read_session
from startup_llm.config import RunsConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    list_all(read_session(__file__, RunsConfig, Reporter(sys.stdout), one_process=True))


def list_all(session: Session[RunsConfig]) -> None:
    from pathlib import Path

    from startup_llm.runs import listing
    from startup_llm.runs.production import Production

    config = session.config
    folder = Path(config.folder)
    production = Production(folder)
    if config.production is not None or config.rollback:
        switch = production.name(config.production) if config.production is not None else production.roll_back()
        was = f", in place of {switch.before}" if switch.before else ""
        session.report(f"{production.link} leads to {switch.run}{was}", "")

    listed = listing.list_runs(folder)
    page = listing.write_index(listed)
    session.reporter.show_table(listing.HEADER, listing.build_rows(listed))
    session.report("", *listing.describe_state(listed))
    session.report(f"open {page}")


if __name__ == "__main__":
    run_recipe(main)

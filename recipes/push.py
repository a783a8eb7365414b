"""Publish a finished run (model, adapter, card, numbers), a page that asks it, or a data set, as one commit.

python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora --dry_run /tmp/look-at-this
python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora
python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora --pull_request --license apache-2.0
python recipes/push.py --run runs/helpdesk-lora --space --repo my-account/helpdesk-page
python recipes/push.py --dataset --data.train_file tickets.csv --repo my-account/tickets --dry_run /tmp/look-at-this
"""

import sys

from startup_llm.command_line import read_session
from startup_llm.config import PushConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    publish(read_session(__file__, PushConfig, Reporter(sys.stdout)))


def publish(session: Session[PushConfig]) -> None:
    from startup_llm.hub.push import preview, push

    config, cards = session.config, session.data_cards
    with session.stage("push"):
        done = preview(config, cards) if config.dry_run else push(config, cards)
    for path, size in done.files.items():
        mark = " " if path not in done.changed else "+"
        session.report(f"{mark} {size:>15,} bytes  {path}")
    for path in done.removed:
        session.report(f"- {'removed':>21}  {path}")
    for note in done.notes:
        session.report(f"note: {note}")
    if config.dry_run:
        session.report(f"dry run: written to {config.dry_run}; nothing was sent to {config.repo}")
    elif done.url is None:
        session.report(f"nothing to do: {config.repo} holds these files already ({done.commit})")
    else:
        session.report(f"published: {done.url}")


if __name__ == "__main__":
    run_recipe(main)

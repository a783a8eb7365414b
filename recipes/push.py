"""Publish a finished run (model, adapter, card, numbers) or a data set, as one commit to a repository of the Hub.

python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora --dry_run /tmp/look-at-this
python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora
python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora --pull_request --license apache-2.0
python recipes/push.py --dataset --data.train_file tickets.csv --repo my-account/tickets --dry_run /tmp/look-at-this
"""

from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import PushConfig
from startup_llm.errors import run_recipe


def main() -> None:
    config, _, _ = parse_config(PushConfig)
    from startup_llm.hub.push import preview, push

    cards = Path(__file__).parents[1] / "data_cards"
    done = preview(config, cards) if config.dry_run else push(config, cards)
    for path, size in done.files.items():
        mark = " " if path not in done.changed else "+"
        print(f"{mark} {size:>15,} bytes  {path}")
    for path in done.removed:
        print(f"- {'removed':>21}  {path}")
    print(*(f"note: {note}" for note in done.notes), sep="\n", end="\n" if done.notes else "")
    if config.dry_run:
        print(f"dry run: written to {config.dry_run}; nothing was sent to {config.repo}")
    elif done.url is None:
        print(f"nothing to do: {config.repo} holds these files already ({done.commit})")
    else:
        print(f"published: {done.url}")


if __name__ == "__main__":
    run_recipe(main)

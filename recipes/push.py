"""Publish a finished run: model, adapter, card and numbers, as one commit to a repository of the Hub.

python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora --dry_run /tmp/look-at-this
python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora
python recipes/push.py --run runs/helpdesk-lora --repo my-account/helpdesk-lora --pull_request --license apache-2.0
"""

from startup_llm.config import PushConfig, parse_config
from startup_llm.errors import run_recipe


def main() -> None:
    config, _, _ = parse_config(PushConfig)
    from startup_llm.hub.push import preview_run, push_run

    push = preview_run(config) if config.dry_run else push_run(config)
    for path, size in push.files.items():
        mark = " " if path not in push.changed else "+"
        print(f"{mark} {size:>15,} bytes  {path}")
    for path in push.removed:
        print(f"- {'removed':>21}  {path}")
    print(*(f"note: {note}" for note in push.notes), sep="\n", end="\n" if push.notes else "")
    if config.dry_run:
        print(f"dry run: written to {config.dry_run}; nothing was sent to {config.repo}")
    elif push.url is None:
        print(f"nothing to do: {config.repo} holds these files already ({push.commit})")
    else:
        print(f"published: {push.url}")


if __name__ == "__main__":
    run_recipe(main)

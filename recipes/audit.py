"""Look for faults in your rows before you train on them.

python recipes/audit.py --data.train_file tickets.csv --output audit/
python recipes/audit.py --data.data_dir data/banking77 --data.group_column customer --fail_on duplicates-across-splits
python recipes/audit.py --data.train_file tickets.csv --fix
"""

import sys

from startup_llm.command_line import parse_config
from startup_llm.config import AuditConfig
from startup_llm.errors import run_recipe


def main() -> None:
    config, _, _ = parse_config(AuditConfig)
    sys.exit(audit(config))


def audit(config: AuditConfig) -> int:
    import datasets

    from startup_llm.audit.audit import KINDS, audit_rows, read_kinds
    from startup_llm.audit.cleaning import FIXABLE, write_cleaned_copies
    from startup_llm.audit.report import check_output, summarize, write_audit

    datasets.disable_progress_bars()
    fail_on = read_kinds("fail_on", config.fail_on, (*KINDS, "any"))
    fix_kinds = read_kinds("fix_kinds", config.fix_kinds, FIXABLE)
    folder = check_output(config.output, config, overwrite=config.overwrite)

    result = audit_rows(config)
    copies = []
    if config.fix:
        copies = write_cleaned_copies(result, fix_kinds, folder, names=config.names, overwrite=config.overwrite)
    write_audit(result, folder)

    content = result.to_json()
    print(", ".join(f"{count:,} {split}" for split, count in content["statistics"]["rows"].items()), "rows")
    print(*(f"  {note}" for note in content["notes"]), sep="\n")
    print(*summarize(content), sep="\n")
    print(*copies, f"audit: {folder}/audit.md, {folder}/audit.json", sep="\n")

    found = {finding["kind"]: finding["severity"] for finding in content["findings"]}
    failed = [kind for kind, severity in found.items() if kind in fail_on or ("any" in fail_on and severity != "note")]
    if failed:
        print(f"failed on {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_recipe(main)

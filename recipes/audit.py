"""Look for faults in your rows before you train on them.

python recipes/audit.py --data.train_file tickets.csv --output audit/
python recipes/audit.py --data.data_dir data/banking77 --data.group_column customer --fail_on duplicates-across-splits
python recipes/audit.py --data.train_file tickets.csv --fix
python recipes/audit.py --data.train_file tickets.csv --checkpoint sentence-transformers/all-MiniLM-L6-v2
"""

import dataclasses
import sys

from startup_llm.command_line import read_session
from startup_llm.config import AuditConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    failed = audit(read_session(__file__, AuditConfig, Reporter(sys.stdout)))
    if failed:
        print(f"failed on {', '.join(failed)}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def audit(session: Session[AuditConfig]) -> list[str]:
    """Write the audit, and return the kinds of findings that were not to be found."""
    import datasets

    from startup_llm.audit.audit import KINDS, audit_rows, read_kinds
    from startup_llm.audit.cleaning import FIXABLE, audit_copies, write_cleaned_copies
    from startup_llm.audit.report import check_output, summarize, write_audit
    from startup_llm.audit.text_features import load_text_encoder

    config = session.config
    encode = None
    datasets.disable_progress_bars()
    fail_on = read_kinds("fail_on", config.fail_on, (*KINDS, "any"))
    fix_kinds = read_kinds("fix_kinds", config.fix_kinds, FIXABLE)
    folder = check_output(config.output, config, overwrite=config.overwrite)

    if config.checkpoint:
        with session.stage("checkpoint"):
            encode = load_text_encoder(config.checkpoint)

    with session.stage("audit"):
        result = audit_rows(config, encode)
        copies = []
        if config.fix:
            copies = write_cleaned_copies(result, fix_kinds, folder, names=config.names, overwrite=config.overwrite)
            result = dataclasses.replace(result, after_fix=audit_copies(result, config, fix_kinds, encode))
        write_audit(result, folder)

    content = result.to_json()
    rows = ", ".join(f"{count:,} {split}" for split, count in content["statistics"]["rows"].items())
    session.report(f"{rows} rows", *content["notes"])
    session.report("\n".join([*summarize(content), *copies, f"audit: {folder}/audit.html, {folder}/audit.json"]))

    severities = {finding["kind"]: finding["severity"] for finding in content["findings"]}
    faults = [kind for kind, severity in severities.items() if "any" in fail_on and severity != "note"]
    return [kind for kind in severities if kind in fail_on or kind in faults]


if __name__ == "__main__":
    run_recipe(main)

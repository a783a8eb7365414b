"""Write a finished run's model in a smaller or faster form, and prove it on the run's test rows.

python recipes/export.py --run runs/helpdesk-lora --format onnx-int8
python recipes/export.py --run runs/helpdesk-lora --format onnx-int8 --quantization static --run_dir exports/helpdesk
python recipes/export.py --run runs/smollm2-chat --format gguf --quantization q4_0
python recipes/serve.py --run runs/helpdesk-lora-onnx-int8
python recipes/export.py --run runs/helpdesk-lora-onnx-int8 --docker helpdesk-server
"""

import sys
from dataclasses import replace
from pathlib import Path

from startup_llm.command_line import read_session
from startup_llm.config import ExportConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.run_folder import RunFolder
from startup_llm.session import Session


def main() -> None:
    session = read_session(__file__, ExportConfig, Reporter(sys.stdout), one_process=True)
    config = session.config
    if config.docker:
        write_image(session)
        return
    path = config.run_dir or f"{config.run.rstrip('/')}-{config.format}"
    with RunFolder(path, overwrite=config.overwrite, config=config) as run:
        is_good = export(replace(session, folder=run))
    sys.exit(0 if is_good else 1)


def export(session: Session[ExportConfig]) -> bool:
    """Export, show the table, and say whether the export is as good as the run, as far as can be shown."""
    from startup_llm.export.run import check_config, export_run, load_source
    from startup_llm.training.processes import hide_library_bars

    hide_library_bars()
    run = session.run
    config, folder, results = check_config(session.config)
    session = replace(session, config=config)
    with session.stage("data"):
        source = load_source(config, folder, results)
    proof = export_run(session, source)
    session.report("")
    session.reporter.show_table(**proof["table"])
    session.report("", *proof["sentences"])
    if proof["outcome"] == "worse" and not config.allow_drop:
        print(f"failed: {proof['sentence']}; kept in {run.set_aside()}; --allow_drop takes it", file=sys.stderr)
        return False
    run.finish()
    chat = " --chat" * config.format.startswith("gguf")
    session.report(f"export: {run.final}", f"next: python recipes/serve.py --run {run.final}{chat}")
    return True


def write_image(session: Session[ExportConfig]) -> None:
    """Write the folder that Docker builds the server's image of."""
    from startup_llm.export.docker import write_image_folder

    config = session.config
    with session.stage("docker"):
        written = write_image_folder(config.run, Path(config.docker), session.recipe.with_name("serve.py"))
    session.report(
        f"docker: {config.docker}, {written.packages_bytes / 1e6:,.0f} MB of packages, "
        f"{written.model_bytes / 1e6:,.1f} MB of model, {written.memory_bytes / 1e6:,.0f} MB of memory",
        f"next: cd {config.docker} && docker compose up --build; its README.md says all",
    )


if __name__ == "__main__":
    run_recipe(main)

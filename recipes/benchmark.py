"""Time this package beside the public ways of doing the same, on one machine, one data set and in one run.

python recipes/benchmark.py
python recipes/benchmark.py --data.data_dir banking77 --ways '[ours, setfit]' --rows null --epochs 1 --accuracy
python recipes/benchmark.py --what inference --rows 3000
python recipes/benchmark.py --rows '[1000, 10000, 100000]' --ways '[ours, peft-dynamic]' --dollars_per_hour 0.1
python recipes/benchmark.py --what causal-lm --rows 100 --data.train_file shakespeare.txt
python recipes/benchmark.py --what chat --rows 64 --data.train_file prompts.jsonl --model.max_length_tokens 768
python recipes/benchmark.py --what suggest --data.data_dir banking77 --data.labels_per_class 5 --target_accuracy 0.9
python recipes/benchmark.py --what label-faults --repetitions 5 --data.train_file banking77/train.csv
python recipes/benchmark.py --what serving --run runs/helpdesk-lora
"""

import sys
from pathlib import Path
from typing import Any

from startup_llm.benchmark.options import BenchmarkConfig
from startup_llm.command_line import open_session
from startup_llm.errors import UserError, run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, BenchmarkConfig, Reporter(sys.stdout), one_process=True) as session:
        special = {"suggest": simulate, "serving": test_load}
        special.get(session.config.what, benchmark)(session)


def benchmark(session: Session[BenchmarkConfig]) -> None:
    from startup_llm.benchmark.label_faults import build_label_fault_tables, measure_label_faults
    from startup_llm.benchmark.peaks import find_peak
    from startup_llm.benchmark.tables import build_timing_tables, draw_costs, draw_timings, summarize_timings
    from startup_llm.benchmark.timing import choose_ways, split_by_rows, time_way
    from startup_llm.evaluation.environment import describe_hardware

    config, run = session.config, session.run
    if config.what == "label-faults":
        measured_faults = measure_label_faults(config, session.report)
        return keep(session, build_label_fault_tables(measured_faults), measured_faults)
    sizes = split_by_rows(config)
    ways = choose_ways(sizes[0])
    peak = find_peak(config.peak_tflops)
    rates = [f"{name} {rate:,.0f} GFLOP/s" for name, rate in peak.items()]
    session.report(f"matrix products here: {', '.join(rates) or 'not known; give --peak_tflops'}")
    timings = [{way: [] for way in ways} for _ in sizes]
    for repetition in range(config.repetitions):
        for sized_config, records in zip(sizes, timings, strict=True):
            for way in ways:  # ways take turns, so that a slow minute of the machine falls on all
                record = time_way(way, sized_config)
                if "error" not in record:
                    done = record["tokens_per_second"] * record.pop("flop_per_token")
                    record["peak_share"] = done / (max(peak.values()) * 1e9) if peak else None
                records[way].append(record)
                rate = record.get("error") or f"{record['rows_per_second']:,.1f} rows/s"
                of = f" on {sized_config.rows:,} rows" if len(sizes) > 1 else ""
                session.report(f"{repetition + 1}/{config.repetitions} {way}{of}: {rate}")

    measured: list[dict[str, Any]] = [
        {"rows": sized_config.rows, "summary": summarize_timings(records), "timings": records}
        for sized_config, records in zip(sizes, timings, strict=True)
    ]
    hardware = describe_hardware()
    draw_timings(measured[-1]["summary"], f"{config.what}, {hardware}", run.path / "benchmark.png")
    if len(sizes) > 1:
        draw_costs(measured, f"{config.what}, {hardware}", config.dollars_per_hour, run.path / "costs.png")
    keep(session, build_timing_tables(measured), {"sizes": measured, "peak_gflop_per_second": peak})


def simulate(session: Session[BenchmarkConfig]) -> None:
    from startup_llm.benchmark import labelling

    config = session.config
    ways = labelling.check_labelling(config)
    with session.stage("features"):
        rows = labelling.load_rows(config)
    curves: dict[str, list[Any]] = {way: [] for way in ways}
    for draw in range(config.repetitions):
        for way in ways:
            curves[way].append(list(labelling.simulate_labelling(way, draw, rows, config)))
            last = curves[way][-1][-1]
            session.report(
                f"{draw + 1}/{config.repetitions} {way}: {last['accuracy']:.1%} by {last['labels']:,} labels"
            )
    summary = labelling.summarize_labelling(curves, config.target_accuracy)
    results = {"target_accuracy": config.target_accuracy, "curves": curves, "summary": summary}
    labelling.draw_labelling(results, rows.data.describe(), session.run.path / "curve.png")
    keep(session, labelling.build_labelling_table(results), results)


def test_load(session: Session[BenchmarkConfig]) -> None:
    from startup_llm.benchmark.serving_load import build_load_table, judge_load
    from startup_llm.serving.load_test import check_load_test, measure_load, read_questions

    config = session.config
    run = check_load_test(config)
    with session.stage("answers"):
        questions = read_questions(run)
    records = measure_load(config, Path(__file__).with_name("serve.py"), questions, session.report)
    keep(session, build_load_table(records), {"loads": records, "sentences": judge_load(records)})
    if any(record["wrong"] + record["lost"] for record in records):
        raise UserError("answers were wrong or lost; the table above says how many")


def keep(session: Session[BenchmarkConfig], table: str, results: dict[str, Any]) -> None:
    run = session.run
    session.report(table)  # first: what was measured is not lost, whatever the rest meets
    run.write_text("config.yaml", session.config_text)
    run.write_text("table.md", table + "\n")
    run.write_json("results.json", {"what": session.config.what, **results, **session.describe_process()})
    run.finish()
    session.report(f"benchmark: {run.final}")


if __name__ == "__main__":
    run_recipe(main)

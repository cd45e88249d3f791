"""Extra forward computation in times of the transfer, by kind of layer: AlexNet, the figure by which Layup decides.

    python -m benchmarks.transfer_or_recompute [--batch 128] [--devices k40c,titan-x-maxwell,h100] [--costs FILE --model
    FILE]

Cards of the catalogue are estimated; `--costs` with its `--model` adds a table that was measured. Written as rows of a
Markdown table: for each kind its layers' sum, then the mean over convolutions and fully connected layers, and over the
others.
"""

import argparse
from pathlib import Path

from benchmarks.policies_grid import job_of
from planc.compiler.job import CompileJob
from planc.costs.store import read_costs
from planc.importer.import_model import import_for
from planc.planning.layer_costs import by_kind, layer_reports, mean_ratio

PRODUCTS = ("conv", "linear")


def measured_job(costs: Path, model: Path) -> CompileJob:
    """The job of a measured table."""
    table = read_costs(costs)
    return CompileJob.of(import_for(model, table.model_hash), table)


def main() -> None:
    """Print one row a device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--devices", default="k40c,titan-x-maxwell,h100")
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    jobs = {name: job_of("alexnet", name, batch=options.batch) for name in options.devices.split(",") if name}
    if options.costs is not None:
        jobs[f"measured: {options.costs.stem}"] = measured_job(options.costs, options.model)
    for name, job in jobs.items():
        reports = layer_reports(job.usual.problem)
        kinds = [f"{kind.kind} {kind.ratio:.2f}" for kind in by_kind(reports) if kind.ratio is not None]
        others = {report.kind for report in reports} - set(PRODUCTS)
        means = [mean_ratio(reports, chosen) or 0.0 for chosen in (PRODUCTS, others)]
        print(f"| {name} | {', '.join(kinds)} | {means[0]:.1f} | {means[1]:.2f} |")


if __name__ == "__main__":
    main()

"""Run the five routes on real photos. Writes NAME.md, NAME.json and NAME.png to benchmarks/results/.

    python benchmarks/routes.py [DATA] [--name ants-bees] [--repeats 3] [--budget 600]
        [--routes cached,frozen,lpft,finetune,scratch]

DATA defaults to FEATCACHE_ANTS_BEES. The clock of each route runs from the start to the end of its process. Finished
routes are stored in --work; the same call continues after an interruption. Run the script on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import sys

import record

import featcache
from featcache.reports.benchmark_report import write_report


def main() -> None:
    """Parse options, run, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--name", default="ants-bees")
    parser.add_argument("--work", help="folder for caches and runs [default: demo/benchmark-COMMIT]")
    parser.add_argument("--routes", default="cached,frozen,lpft,finetune,scratch")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--views", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train-precision")
    parser.add_argument("--budget", type=float, help="maximum seconds for all routes [default: no limit]")
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of class folders")
    commit = record.commit()  # before the run: what is measured, whatever is committed meanwhile
    comparison = featcache.benchmark(
        options.data,
        options.work or f"demo/benchmark-{commit}",
        routes=options.routes,
        backbone=options.backbone,
        weights=options.weights,
        views=options.views,
        config={"epochs": options.epochs},
        repeats=options.repeats,
        train_precision=options.train_precision,
        budget_s=options.budget,
    )
    comparison.versions["commit"] = commit
    print(write_report(comparison, record.RESULTS, options.name))
    print(f"\n{featcache.reach_verdict(comparison)}")


if __name__ == "__main__":
    main()

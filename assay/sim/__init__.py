"""The simulated network: the real machines of all roles on one seeded virtual clock.

    for report in run(Options(jobs=10, loss=0.05, churn=2.0), seeds=range(5)):
        print(report.seed, report.outcomes, report.problems)

What is in it, and what is not: assay.sim.world. A run is repeated exactly by its seed and options.
"""

from assay.sim.options import Options
from assay.sim.report import Report, run, summary
from assay.sim.world import CrashAt, World

__all__ = ["CrashAt", "Options", "Report", "World", "run", "summary"]

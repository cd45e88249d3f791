"""Every call of the system refused once: memory, threads, sessions, operators, reads, writes, files."""

from pathlib import Path
from tempfile import TemporaryDirectory

from support import networks
from support.failing import SITES, Trials
from support.plans import random_plan

from benchmarks.reliability.count import Count
from planc.runtime.tiers import swap_folder


def refused(scale: int) -> dict[str, Count]:
    """Load, two steps, a save, a load and a step, each call failing in turn; of one plan or, in the long form, six."""
    count = Count()
    builds = (networks.mlp, networks.cnn, networks.adam_mlp) if scale >= 10 else (networks.mlp,)
    plans = [(build(), in_slab) for build in builds for in_slab in ((True, False) if scale >= 10 else (True,))]
    for imported, in_slab in plans:
        with TemporaryDirectory(dir=swap_folder()) as folder:
            trials = Trials(imported, random_plan(imported, 1, in_slab), Path(folder))
            for site in SITES:
                number, reached = 1, True
                while reached:
                    fault, reached = trials.fault(site, number)
                    if reached:
                        count.add(fault)
                    number += 1
    count.notes["kinds"], count.notes["plans"] = len(SITES), len(plans)
    return {"calls of the system refused": count}

"""`python -m planc.runtime.unplanned MODEL STEPS SEED`: run an unplanned graph and print by how many bytes the process
grew, as JSON. A process of its own, since what one run leaves in memory hides what the next one takes."""

import json
import sys
from pathlib import Path

from planc.importer.import_model import import_model
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.ort.sessions import prepare_threads
from planc.runtime.resident import peak_resident_bytes, reset_peak, resident_bytes


def growth_bytes(model: Path, steps: int, seed: int) -> int:
    """Growth of this process from before the model is read to the end of the last step."""
    prepare_threads()
    reset_peak()
    before = resident_bytes()
    imported = import_model(model)
    step = UnplannedStep(imported, seed=seed)
    for index in range(steps):
        step(synthetic_feeds(imported.graph, seed + index))
    return peak_resident_bytes() - before


if __name__ == "__main__":
    path, count, chosen = sys.argv[1:]
    sys.stdout.write(json.dumps({"growth": growth_bytes(Path(path), int(count), int(chosen))}))

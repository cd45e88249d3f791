"""Function bodies of planc's own for standard operators that have neither a gradient rule nor a usable body in ONNX.

A body is made for one call, whose shapes are known, of operators that have rules; importing the package registers all.
"""

from planc.training.prepare.bodies import einsum, lp, roi_align, sampling, scatter, sequences, spectrum
from planc.training.prepare.bodies.body import BODIES, Call

__all__ = ["BODIES", "Call", "einsum", "lp", "roi_align", "sampling", "scatter", "sequences", "spectrum"]

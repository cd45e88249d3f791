"""Sessions on the CPU, with kernels for planc's own operators where a library has them."""

import onnx
import onnxruntime as ort

from planc.runtime.onednn.operators import with_kernels
from planc.runtime.ort.own import has_functions, written_out
from planc.runtime.ort.sessions import faithful_options


def cpu_session(source: str | bytes, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """A session of the CPU provider over a model or its file; without `options` it manages its own memory."""
    chosen = faithful_options() if options is None else options
    model = source
    if isinstance(source, bytes) and has_functions(source):
        found = with_kernels(source, chosen)
        model = written_out(onnx.load_model_from_string(found)).SerializeToString()
    return ort.InferenceSession(model, chosen, providers=["CPUExecutionProvider"])


def open_session(source: str | bytes, _index: int) -> ort.InferenceSession:
    """The same, as the list of devices asks for it; there is one CPU only."""
    return cpu_session(source)

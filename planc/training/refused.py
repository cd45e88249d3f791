"""Standard operators that yield floats and have no gradient in planc, each with its reason."""

REFUSED = {
    "BitCast": "bits taken for another type have no derivative",
    "Compress": "its result is as long as the condition says, and planc's graphs are static; use Where or Gather",
    "ConcatFromSequence": "it reads a sequence; use Concat",
    "DeformConv": "samples that the offsets place are not written out; use GridSample and a product",
    "DequantizeLinear": "the model is quantised, and whole numbers cannot be trained; export it before quantisation",
    "DynamicQuantizeLinear": "the model is quantised, and whole numbers cannot be trained; export it before quantisation",
    "GRU": "it is unrolled before, unless it uses a setting that is named then",
    "If": "control flow decides what runs; planc's graphs are static",
    "LSTM": "it is unrolled before, unless it uses a setting that is named then",
    "Loop": "control flow decides how often something runs; unroll it",
    "MaxRoiPool": "the regions decide how large its windows are; use RoiAlign",
    "MelWeightMatrix": "its bins are rounded, so that its inputs have no derivative; make it a constant",
    "OptionalGetElement": "it reads an optional; give the tensor itself",
    "RNN": "it is unrolled before, unless it uses a setting that is named then",
    "Range": "its result is as long as its inputs say, and planc's graphs are static; make it a constant",
    "Scan": "control flow decides how often something runs; unroll it",
    "SequenceAt": "it reads a sequence; use Split and Gather",
    "TensorScatter": "it updates a cache for inference; use ScatterND",
    "TfIdfVectorizer": "it counts words, which has no derivative",
    "Unique": "its result is as long as its input's values say, and planc's graphs are static",
}
"""Reasons by operator type."""

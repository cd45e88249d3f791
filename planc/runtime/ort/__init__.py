"""What planc asks of ONNX Runtime: sessions, its C API, custom operators."""

"""Packed models in the formats of others: NIR and ONNX."""

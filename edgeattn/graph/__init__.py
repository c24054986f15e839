"""ONNX graphs: the operator node, export, rewriting and files."""

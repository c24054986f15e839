"""TensorRT: what needs its Python bindings or a GPU, imported only when it is used."""

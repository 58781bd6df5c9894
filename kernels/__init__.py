"""Expectation attention, the one operator that this project brings with it.

``eager`` is the definition in plain PyTorch; ``op`` registers it as the torch custom operator
``ecea::expectation_attention``, which the exporter turns into one ONNX node. ``triton_kernel`` is what runs on a GPU,
in the block shapes of ``tactics``; ``ahead_of_time`` compiles it to PTX, and ``plugin`` gives that to TensorRT.
"""

"""Expectation attention, the one operator that this project brings with it.

``eager`` is the definition in plain PyTorch; ``op`` registers it as the torch custom operator
``ecea::expectation_attention``, which the exporter turns into one ONNX node.
"""

"""TensorRT plans: what TensorRT makes of the ONNX form for GPUs, for one model of GPU and one version of TensorRT.

A bundle holds a plan for each engine and batch size, and the ONNX files that they were made of, so that they can be
made again on another machine.
"""

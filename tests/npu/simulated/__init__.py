"""A simulated Ascend machine: the real torch_npu wheel over a fake CANN driver, with PyTorch's CPU kernels for operators."""

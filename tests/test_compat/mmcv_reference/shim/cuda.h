// Nothing: mmcv's kernels are compiled for the CPU, one thread in one block. See ../reference.cpp.

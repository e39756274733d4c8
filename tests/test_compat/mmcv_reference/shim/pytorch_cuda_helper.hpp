// Stands before mmcv's header of this name and is included inside a namespace. See ../reference.cpp.
#ifndef PYTORCH_CUDA_HELPER
#define PYTORCH_CUDA_HELPER
#include "common_cuda_helper.hpp"
#endif

// mmcv's own sources, as mmcv-lite ships them, compiled as the reference of mmtrtvit's stand-in.
//
// The CPU ops are mmcv's files unchanged. Where mmcv has CUDA kernels only, those are compiled for the CPU: the grid
// is one block of one thread, so that each kernel's loop runs over all elements in order.

#include <torch/extension.h>

#include <cfloat>
#include <cmath>

#include "pytorch_cpp_helper.hpp"
#include "pytorch_device_registry.hpp"

// CPU: mmcv/ops/csrc/pytorch
#include "pytorch/nms.cpp"
#include "pytorch/cpu/nms.cpp"
#include "pytorch/roi_align.cpp"
#include "pytorch/cpu/roi_align.cpp"
#include "pytorch/deform_conv.cpp"
#include "pytorch/cpu/deform_conv.cpp"
#include "pytorch/modulated_deform_conv.cpp"
#include "pytorch/cpu/modulated_deform_conv.cpp"
#include "pytorch/bbox_overlaps.cpp"
#include "pytorch/cpu/bbox_overlaps_cpu.cpp"

// CUDA: mmcv/ops/csrc/common/cuda
#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__

namespace kernels {
using std::abs;
using std::max;
using std::min;

struct Dim {
  unsigned x = 0, y = 0, z = 0;
};
static const Dim threadIdx, blockIdx;
static const Dim blockDim{1, 1, 1}, gridDim{1, 1, 1};
inline void __syncthreads() {}
template <typename T>
void atomicAdd(T *address, T value) {
  *address += value;
}

#include "common/cuda/masked_conv2d_cuda_kernel.cuh"
#include "common/cuda/ms_deform_attn_cuda_kernel.cuh"
#include "common/cuda/roi_pool_cuda_kernel.cuh"
#include "common/cuda/sigmoid_focal_loss_cuda_kernel.cuh"
#include "common/cuda/softmax_focal_loss_cuda_kernel.cuh"
}  // namespace kernels

#define DISPATCH(TENSOR, ...) AT_DISPATCH_FLOATING_TYPES(TENSOR.scalar_type(), "reference", [&] { __VA_ARGS__; });
#define P(TENSOR) TENSOR.data_ptr<scalar_t>()
#define L(TENSOR) TENSOR.data_ptr<int64_t>()

template <typename T>
const T *class_weight(const Tensor &weight) {
  return weight.numel() ? weight.data_ptr<T>() : nullptr;
}

void sigmoid_focal_loss_forward(Tensor input, Tensor target, Tensor weight, Tensor output, float gamma, float alpha) {
  DISPATCH(input, kernels::sigmoid_focal_loss_forward_cuda_kernel<scalar_t>(
                      output.numel(), P(input), L(target), class_weight<scalar_t>(weight), P(output), gamma, alpha,
                      input.size(1)))
}

void sigmoid_focal_loss_backward(Tensor input, Tensor target, Tensor weight, Tensor grad, float gamma, float alpha) {
  DISPATCH(input, kernels::sigmoid_focal_loss_backward_cuda_kernel<scalar_t>(
                      grad.numel(), P(input), L(target), class_weight<scalar_t>(weight), P(grad), gamma, alpha,
                      input.size(1)))
}

void softmax_focal_loss_forward(Tensor softmax, Tensor target, Tensor weight, Tensor output, float gamma,
                                float alpha) {
  DISPATCH(softmax, kernels::softmax_focal_loss_forward_cuda_kernel<scalar_t>(
                        output.numel(), P(softmax), L(target), class_weight<scalar_t>(weight), P(output), gamma, alpha,
                        softmax.size(1)))
}

void softmax_focal_loss_backward(Tensor softmax, Tensor target, Tensor weight, Tensor buff, Tensor grad, float gamma,
                                 float alpha) {
  DISPATCH(softmax, {
    kernels::softmax_focal_loss_backward_cuda1_kernel<scalar_t>(buff.numel(), P(softmax), L(target),
                                                                class_weight<scalar_t>(weight), P(buff), gamma, alpha,
                                                                softmax.size(1));
    kernels::softmax_focal_loss_backward_cuda2_kernel<scalar_t>(grad.numel(), P(softmax), L(target), P(buff), P(grad),
                                                                softmax.size(1));
  })
}

void roi_pool_forward(Tensor input, Tensor rois, Tensor output, Tensor argmax, int pooled_height, int pooled_width,
                      float spatial_scale) {
  DISPATCH(input, kernels::roi_pool_forward_cuda_kernel<scalar_t>(
                      output.numel(), P(input), P(rois), P(output), argmax.data_ptr<int>(), pooled_height, pooled_width,
                      static_cast<scalar_t>(spatial_scale), input.size(1), input.size(2), input.size(3)))
}

void roi_pool_backward(Tensor grad_output, Tensor rois, Tensor argmax, Tensor grad_input, int pooled_height,
                       int pooled_width, float spatial_scale) {
  DISPATCH(grad_output,
           kernels::roi_pool_backward_cuda_kernel<scalar_t>(
               grad_output.numel(), P(grad_output), P(rois), argmax.data_ptr<int>(), P(grad_input), pooled_height,
               pooled_width, grad_input.size(1), grad_input.size(2), grad_input.size(3)))
}

Tensor ms_deform_attn_forward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights,
                              int im2col_step) {
  auto output = at::zeros({value.size(0), locations.size(1), value.size(2) * value.size(3)}, value.options());
  DISPATCH(value, kernels::ms_deformable_im2col_gpu_kernel<scalar_t>(
                      output.numel(), P(value), L(shapes), L(starts), P(locations), P(weights), value.size(0),
                      value.size(1), value.size(2), value.size(3), shapes.size(0), locations.size(1),
                      locations.size(4), P(output)))
  return output;
}

void ms_deform_attn_backward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights,
                             Tensor grad_output, Tensor grad_value, Tensor grad_locations, Tensor grad_weights,
                             int im2col_step) {
  DISPATCH(value, kernels::ms_deformable_col2im_gpu_kernel_gm<scalar_t>(
                      grad_output.numel(), P(grad_output), P(value), L(shapes), L(starts), P(locations), P(weights),
                      value.size(0), value.size(1), value.size(2), value.size(3), shapes.size(0), locations.size(1),
                      locations.size(4), P(grad_value), P(grad_locations), P(grad_weights)))
}

void masked_im2col_forward(Tensor im, Tensor rows, Tensor columns, Tensor col, int kernel_h, int kernel_w, int pad_h,
                           int pad_w) {
  DISPATCH(im, kernels::MaskedIm2colForward<scalar_t>(im.size(1) * rows.size(0), P(im), im.size(2), im.size(3),
                                                      kernel_h, kernel_w, pad_h, pad_w, L(rows), L(columns),
                                                      rows.size(0), P(col)))
}

void masked_col2im_forward(Tensor col, Tensor rows, Tensor columns, Tensor im, int height, int width, int channels) {
  DISPATCH(im, kernels::MaskedCol2imForward<scalar_t>(channels * rows.size(0), P(col), height, width, channels,
                                                      L(rows), L(columns), rows.size(0), P(im)))
}

// last: it defines min and max as macros
#include "pytorch/psamask.cpp"
#include "pytorch/cpu/psamask.cpp"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
#define OP(NAME, ...) m.def(#NAME, &NAME, __VA_ARGS__)
  using pybind11::arg;
  OP(nms, arg("boxes"), arg("scores"), arg("iou_threshold"), arg("offset"));
  OP(softnms, arg("boxes"), arg("scores"), arg("dets"), arg("iou_threshold"), arg("sigma"), arg("min_score"),
     arg("method"), arg("offset"));
  OP(nms_match, arg("dets"), arg("iou_threshold"));
  OP(bbox_overlaps, arg("bboxes1"), arg("bboxes2"), arg("ious"), arg("mode"), arg("aligned"), arg("offset"));
  OP(roi_align_forward, arg("input"), arg("rois"), arg("output"), arg("argmax_y"), arg("argmax_x"),
     arg("aligned_height"), arg("aligned_width"), arg("spatial_scale"), arg("sampling_ratio"), arg("pool_mode"),
     arg("aligned"));
  OP(roi_align_backward, arg("grad_output"), arg("rois"), arg("argmax_y"), arg("argmax_x"), arg("grad_input"),
     arg("aligned_height"), arg("aligned_width"), arg("spatial_scale"), arg("sampling_ratio"), arg("pool_mode"),
     arg("aligned"));
#define V1_GEOMETRY                                                                                               \
  arg("kW"), arg("kH"), arg("dW"), arg("dH"), arg("padW"), arg("padH"), arg("dilationW"), arg("dilationH"),       \
      arg("group"), arg("deformable_group")
  OP(deform_conv_forward, arg("input"), arg("weight"), arg("offset"), arg("output"), arg("columns"), arg("ones"),
     V1_GEOMETRY, arg("im2col_step"));
  OP(deform_conv_backward_input, arg("input"), arg("offset"), arg("gradOutput"), arg("gradInput"), arg("gradOffset"),
     arg("weight"), arg("columns"), V1_GEOMETRY, arg("im2col_step"));
  OP(deform_conv_backward_parameters, arg("input"), arg("offset"), arg("gradOutput"), arg("gradWeight"),
     arg("columns"), arg("ones"), V1_GEOMETRY, arg("scale"), arg("im2col_step"));
#define V2_GEOMETRY                                                                                               \
  arg("kernel_h"), arg("kernel_w"), arg("stride_h"), arg("stride_w"), arg("pad_h"), arg("pad_w"),                 \
      arg("dilation_h"), arg("dilation_w"), arg("group"), arg("deformable_group"), arg("with_bias")
  OP(modulated_deform_conv_forward, arg("input"), arg("weight"), arg("bias"), arg("ones"), arg("offset"), arg("mask"),
     arg("output"), arg("columns"), V2_GEOMETRY);
  OP(modulated_deform_conv_backward, arg("input"), arg("weight"), arg("bias"), arg("ones"), arg("offset"),
     arg("mask"), arg("columns"), arg("grad_input"), arg("grad_weight"), arg("grad_bias"), arg("grad_offset"),
     arg("grad_mask"), arg("grad_output"), V2_GEOMETRY);
  OP(sigmoid_focal_loss_forward, arg("input"), arg("target"), arg("weight"), arg("output"), arg("gamma"),
     arg("alpha"));
  OP(sigmoid_focal_loss_backward, arg("input"), arg("target"), arg("weight"), arg("grad_input"), arg("gamma"),
     arg("alpha"));
  OP(softmax_focal_loss_forward, arg("input"), arg("target"), arg("weight"), arg("output"), arg("gamma"),
     arg("alpha"));
  OP(softmax_focal_loss_backward, arg("input"), arg("target"), arg("weight"), arg("buff"), arg("grad_input"),
     arg("gamma"), arg("alpha"));
  OP(roi_pool_forward, arg("input"), arg("rois"), arg("output"), arg("argmax"), arg("pooled_height"),
     arg("pooled_width"), arg("spatial_scale"));
  OP(roi_pool_backward, arg("grad_output"), arg("rois"), arg("argmax"), arg("grad_input"), arg("pooled_height"),
     arg("pooled_width"), arg("spatial_scale"));
  OP(ms_deform_attn_forward, arg("value"), arg("value_spatial_shapes"), arg("value_level_start_index"),
     arg("sampling_locations"), arg("attention_weights"), arg("im2col_step"));
  OP(ms_deform_attn_backward, arg("value"), arg("value_spatial_shapes"), arg("value_level_start_index"),
     arg("sampling_locations"), arg("attention_weights"), arg("grad_output"), arg("grad_value"),
     arg("grad_sampling_loc"), arg("grad_attn_weight"), arg("im2col_step"));
  OP(masked_im2col_forward, arg("im"), arg("mask_h_idx"), arg("mask_w_idx"), arg("col"), arg("kernel_h"),
     arg("kernel_w"), arg("pad_h"), arg("pad_w"));
  OP(masked_col2im_forward, arg("col"), arg("mask_h_idx"), arg("mask_w_idx"), arg("im"), arg("height"), arg("width"),
     arg("channels"));
#define PSA_GEOMETRY                                                                                              \
  arg("psa_type"), arg("num_"), arg("h_feature"), arg("w_feature"), arg("h_mask"), arg("w_mask"),                 \
      arg("half_h_mask"), arg("half_w_mask")
  OP(psamask_forward, arg("input"), arg("output"), PSA_GEOMETRY);
  OP(psamask_backward, arg("grad_output"), arg("grad_input"), PSA_GEOMETRY);
}

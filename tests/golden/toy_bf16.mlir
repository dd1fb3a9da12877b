module @toy attributes {module.chip = "bm1684x", module.platform = "ONNX", module.state = "TPU_LOWERED", module.top_run_mode = "STATIC", module.mode = "BF16", module.asymmetric = false} {
  func.func @main(%0: tensor<1x3x8x8xf32> loc(unknown)) -> tensor<1x4x8x8xf32> {
    %1 = "top.None"() : () -> none loc(unknown)
    %2 = "top.Input"(%0) {channel_format = "nchw", do_preprocess = true, keep_aspect_ratio = false, keep_ratio_mode = "letterbox", mean = [0.0, 0.0, 0.0], pad_type = "center", pad_value = 0 : i64, pixel_format = "rgb", resize_dims = [8, 8], scale = [0.0039216, 0.0039216, 0.0039216]} : (tensor<1x3x8x8xf32>) -> tensor<1x3x8x8xf32> loc("data")
    %3 = "top.Weight"() : () -> tensor<4xf32> loc("y_Relu_b")
    %4 = "tpu.Cast"(%2) : (tensor<1x3x8x8xf32>) -> tensor<1x3x8x8xbf16> loc("datay_Relu_bf16")
    %5 = "top.Weight"() : () -> tensor<4x3x3x3xbf16> loc("y_Relu_w_bf16")
    %6 = "tpu.Conv2D"(%4, %5, %3) {dilations = [1, 1], do_relu = true, group = 1 : i64, kernel_shape = [3, 3], pads = [1, 1, 1, 1], relu_limit = -1.0 : f64, strides = [1, 1], weight_is_coeff = 1 : i64, with_bias = true} : (tensor<1x3x8x8xbf16>, tensor<4x3x3x3xbf16>, tensor<4xf32>) -> tensor<1x4x8x8xbf16> loc("y_Relu")
    %7 = "tpu.Cast"(%6) : (tensor<1x4x8x8xbf16>) -> tensor<1x4x8x8xf32> loc("y_Relu_f32")
    func.return %7 : tensor<1x4x8x8xf32> loc(unknown)
  } loc(unknown)
} loc(unknown)

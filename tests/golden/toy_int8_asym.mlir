module @toy attributes {module.chip = "bm1684x", module.platform = "ONNX", module.state = "TPU_LOWERED", module.top_run_mode = "STATIC", module.mode = "INT8", module.asymmetric = true} {
  func.func @main(%0: tensor<1x3x8x8xf32> loc(unknown)) -> tensor<1x4x8x8xf32> {
    %1 = "top.None"() : () -> none loc(unknown)
    %2 = "top.Input"(%0) {channel_format = "nchw", do_preprocess = true, keep_aspect_ratio = false, keep_ratio_mode = "letterbox", mean = [0.0, 0.0, 0.0], pad_type = "center", pad_value = 0 : i64, pixel_format = "rgb", resize_dims = [8, 8], scale = [0.0039216, 0.0039216, 0.0039216]} : (tensor<1x3x8x8xf32>) -> tensor<1x3x8x8x!quant.calibrated<f32<0.0:1.0>>> loc("data")
    %3 = "tpu.Cast"(%2) : (tensor<1x3x8x8x!quant.calibrated<f32<0.0:1.0>>>) -> tensor<1x3x8x8x!quant.uniform<u8:f32, 0.00392156862745098>> loc("datay_Relu_ui8")
    %4 = "top.Weight"() : () -> tensor<4x3x3x3xsi8> loc("y_Relu_filter_i8")
    %5 = "top.Weight"() : () -> tensor<1x4x1x1xi32> loc("y_Relu_bias_int32")
    %6 = "tpu.Conv2D"(%3, %4, %5) {dilations = [1, 1], do_relu = true, group = 1 : i64, kernel_shape = [3, 3], pads = [1, 1, 1, 1], relu_limit = -1.0 : f64, strides = [1, 1], weight_is_coeff = 1 : i64, with_bias = true, quant_mode = #tpu<rq_mode MultiplierShift>, multiplier = [115591, 115591, 115591, 115591], rshift = [28, 28, 28, 28], do_winograd = false} : (tensor<1x3x8x8x!quant.uniform<u8:f32, 0.00392156862745098>>, tensor<4x3x3x3xsi8>, tensor<1x4x1x1xi32>) -> tensor<1x4x8x8x!quant.uniform<u8:f32, 0.025098039215686277>> loc("y_Relu")
    %7 = "tpu.Cast"(%6) : (tensor<1x4x8x8x!quant.uniform<u8:f32, 0.025098039215686277>>) -> tensor<1x4x8x8xf32> loc("y_Relu_f32")
    func.return %7 : tensor<1x4x8x8xf32> loc(unknown)
  } loc(unknown)
} loc(unknown)

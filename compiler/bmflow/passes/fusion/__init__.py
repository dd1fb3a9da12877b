"""Rewrites that make one op of several."""

from bmflow.passes.fusion.fold_add_into_conv import FoldAddIntoConv
from bmflow.passes.fusion.fold_add_into_matmul import FoldAddIntoMatMul
from bmflow.passes.fusion.fold_mul_into_conv import FoldMulIntoConv
from bmflow.passes.fusion.fold_mul_into_matmul import FoldMulIntoMatMul
from bmflow.passes.fusion.fuse_batch_norm_into_conv import FuseBatchNormIntoConv
from bmflow.passes.fusion.fuse_focus_into_depth2space import FuseFocusIntoDepth2Space
from bmflow.passes.fusion.fuse_permute_into_matmul import FusePermuteIntoMatMul
from bmflow.passes.fusion.fuse_relu_into_producer import FuseReluIntoProducer
from bmflow.passes.fusion.fuse_sigmoid_mul_into_silu import FuseSigmoidMulIntoSiLU
from bmflow.passes.fusion.turn_batch_norm_into_conv import TurnBatchNormIntoConv
from bmflow.passes.rewrite import Rewrite

FUSIONS: tuple[Rewrite, ...] = (
    FuseBatchNormIntoConv(),
    FoldMulIntoConv(),
    FoldAddIntoConv(),
    FoldMulIntoMatMul(),
    FoldAddIntoMatMul(),
    TurnBatchNormIntoConv(),
    FusePermuteIntoMatMul(),
    FuseReluIntoProducer(),
    FuseSigmoidMulIntoSiLU(),
    FuseFocusIntoDepth2Space(),
)

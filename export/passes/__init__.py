"""Exact rewrites of the exported graph: the same function in exact arithmetic, in fewer or better-suited operations.

Each pass is a function ``pass_(model) -> int`` that changes the model in place and returns in how many places.
``PASSES`` serve every engine and backend, ``FLOATING`` and ``QUANTIZED`` one kind of engine,
``FOR_BACKEND`` and ``FOR_BACKEND_QUANTIZED`` one backend's engines of either kind; ``optimize`` runs them.

Not here: BatchNorm is folded by the exporter's optimizer, and the identity clip of expectation attention is never
exported (``ecea.kernels.eager`` says why).
"""

from collections.abc import Callable, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from ecea.export.passes.activations import (
    fuse_gelu,
    leaky_relu_before_pixel_shuffle,
    prelu_to_leaky_relu,
    tanh_to_sigmoid,
)
from ecea.export.passes.attention import (
    attention_as_multihead,
    fold_attention_scale,
    fold_edge_bias,
)
from ecea.export.passes.heads import final_convolution_at_half_size, split_final_convolution
from ecea.export.passes.norms import fold_norm_affine, share_equal_norms
from ecea.export.passes.token_mixing import (
    fold_position_embedding,
    reassociate_patch_embedding,
    split_token_mixing,
    weights_on_the_right,
)
from ecea.export.passes.upsampling import upsampling_to_transposed_convolution
from ecea.export.passes.winograd import convolution_by_winograd, row_convolution_before_interleaving

Pass = Callable[[ir.Model], int]

PASSES: tuple[Pass, ...] = (
    prelu_to_leaky_relu,
    leaky_relu_before_pixel_shuffle,
    tanh_to_sigmoid,
    final_convolution_at_half_size,
    split_final_convolution,
    split_token_mixing,
    fold_position_embedding,
    reassociate_patch_embedding,
    # A norm must be free of its affine part before the norms of a stage are equal, and the edge features must
    # have taken over their norm's shift as a bias before the keys take over that bias.
    fold_norm_affine,
    share_equal_norms,
    fold_attention_scale,
    fold_edge_bias,
)

# A transposed convolution takes fewer products; but runtimes have an integer form of the plain one alone.
FLOATING: tuple[Pass, ...] = (upsampling_to_transposed_convolution,)

QUANTIZED: tuple[Pass, ...] = (weights_on_the_right,)

# For processors in FP32, where it was measured to pay; not with INT8, whose products are cheaper than the additions
# that the scheme takes in their place; not tried on a GPU.
WINOGRAD: tuple[Pass, ...] = (convolution_by_winograd, row_convolution_before_interleaving)

FOR_BACKEND: dict[str, tuple[Pass, ...]] = {
    "cpu": (attention_as_multihead, fuse_gelu, *WINOGRAD),
    # Its CPU plugin makes one kernel of the attention node's function body, and of GELU, by itself.
    "openvino": WINOGRAD,
}


FOR_BACKEND_QUANTIZED: dict[str, tuple[Pass, ...]] = {"cpu": (attention_as_multihead, fuse_gelu), "openvino": ()}


def optimize(model: ir.Model, passes: Sequence[Pass] = PASSES) -> dict[str, int]:
    """Apply ``passes`` in order, in place, then remove the nodes and the weights that nothing reads any more.

    Returns:
        For each pass, by name, the number of places that it changed.
    """
    changes = {rewrite.__name__: rewrite(model) for rewrite in passes}
    for cleanup in (RemoveUnusedNodesPass(), RemoveUnusedFunctionsPass(), RemoveUnusedOpsetsPass()):
        cleanup(model)
    return changes

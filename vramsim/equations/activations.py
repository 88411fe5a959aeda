"""Bytes of the loss and of recomputation. Equations A7, A9-A12, A14 and A15 of docs/equations/activations.md.

A1-A6 and A8, what a layer saves, are tables of tensors: see vramsim/blocks and layout.bytes_per_token.
"""

from __future__ import annotations

import numpy as np

from vramsim.units import Num, ceil, maximum, where


def checkpointed(saved: Num, checkpoint: Num, recompute: Num) -> Num:
    """Bytes that a layer keeps from forward to backward when a share of layers is recomputed.

    b = (1 - r) a + r c                                                                      (A7)

    saved : bytes of a layer kept whole, a. [B]   checkpoint : bytes of its input, c. [B]
    recompute : share of layers recomputed, r. [-]
    Returns bytes per layer, averaged over layers. [B]
    Source: torch.utils.checkpoint.

    >>> float(checkpointed(100.0, 4.0, 0.5))
    52.0
    """
    return (1.0 - recompute) * saved + recompute * checkpoint


def loss_forward(logits: Num, size: Num) -> Num:
    """Peak bytes while the cross-entropy is computed: logits, their fp32 copy, its log-softmax.

    b = V T (e + 4 + 4)   or, when logits are fp32 already,   b = V T (4 + 4)                (A9)

    logits : elements of the logits, V T. [-]   size : bytes of one as the head makes it, e. [B]
    Returns bytes. [B]
    Source: transformers ForCausalLMLoss (4.46 and later); 53 of 53 traces.

    >>> float(loss_forward(1.0, 2.0))
    10.0
    """
    return logits * where(size < 4.0, size + 8.0, 8.0)


def loss_backward(logits: Num, size: float = 4.0) -> Num:
    """Peak bytes while the log-softmax goes backward: the saved output, its gradient and the result, in one dtype.

    b = 3 e V T                                                                              (A10)

    logits : elements of the logits, V T. [-]   size : bytes of one as the loss computes in, fp32 as a rule, e. [B]
    Returns bytes. [B]
    Source: aten::_log_softmax_backward_data; 128 of 128 traces whose peak is there.

    >>> float(loss_backward(1.0))
    12.0
    """
    return logits * (3.0 * size)


def sliced_loss(logits: Num, size: Num) -> Num:
    """Peak bytes of PyTorch's loss on slices of the vocabulary: forward and backward are spelt out, each in a tensor.

    b = max(e + 12, 16) V T / t                                                             (A16)

    logits : elements of a rank's slice, V T / t. [-]   size : bytes of one as the head makes them, e. [B]
    Returns bytes. [B]
    Source: PyTorch torch/distributed/tensor/parallel/loss.py: forward has the logits, their fp32 copy, what is left of
    it without the maximum, and its exponential; backward (grad + exp(x)) * scale: four fp32 tensors.

    >>> float(sliced_loss(1.0, 2.0))
    16.0
    """
    return logits * maximum(size + 12.0, 16.0)


def head_backward(logits: Num, size: Num, weight_gradient: Num, hidden: Num) -> Num:
    """Bytes while the head's projection goes backward: the logits' gradient, the weight's, and the input's.

    b = e V T + G + e h T                                                                    (A11)

    logits : elements of the logits, V T. [-]   size : bytes of one, e. [B]
    weight_gradient : bytes of the head's gradient, G. [B]   hidden : elements of the head's input, h T. [-]
    Returns bytes. [B]
    Source: autograd order of a linear layer.

    >>> float(head_backward(10.0, 2.0, 5.0, 1.0))
    27.0
    """
    return logits * size + weight_gradient + hidden * size


def liger_chunk(tokens: Num, vocab: Num, hidden: Num) -> Num:
    """Tokens in one chunk of Liger's fused linear cross-entropy.

    C = 2^ceil(log2 ceil(T / ceil(V / h)))                                                   (A12)

    tokens : T. [-]   vocab : V. [-]   hidden : h. [-]
    Returns tokens. [-]
    Source: Liger-Kernel ops/fused_linear_cross_entropy.py.

    >>> float(liger_chunk(8192.0, 128256.0, 8192.0))
    512.0
    """
    chunk = ceil(tokens / ceil(vocab / hidden))
    return np.exp2(ceil(np.log2(maximum(chunk, 1.0))))


def ring_point_to_point(queries: Num, keys: Num, outputs: Num, ranks: Num, element: Num) -> tuple[Num, Num]:
    """Bytes of ring attention that sends blocks from neighbour to neighbour, forward and backward.

    f = e N (k + o),  b = e (q + 4 k)                                                        (A14)

    queries, keys, outputs : elements of a rank's queries, of its keys and values together, of its output. [-]
    ranks : N. [-]   element : bytes of one, e. [B]
    Returns bytes in forward and in backward. [B]
    Source: TransformerEngine context_parallel.py, AttnFuncWithCPAndKVP2P.

    >>> ring_point_to_point(1.0, 2.0, 1.0, 4.0, 2.0)
    (24.0, 18.0)
    """
    return element * ranks * (keys + outputs), element * (queries + 4.0 * keys)


def ring_gathered(queries: Num, keys: Num, outputs: Num, ranks: Num, element: Num) -> tuple[Num, Num]:
    """Bytes of ring attention that gathers all keys and values at once and merges in fp32, beyond plain attention.

    f = e N k + 16 o,  b = e N k + 4 q + 17 k                                                (A15)

    queries, keys, outputs : elements of a rank's queries, of its keys and values together, of its output. [-]
    ranks : N. [-]   element : bytes of one, e. [B]
    Returns bytes in forward and in backward. [B]
    Source: PyTorch 2.13 distributed/tensor/experimental/_context_parallel/_attention.py; storages traced on 4 ranks.

    >>> ring_gathered(1.0, 2.0, 1.0, 4.0, 2.0)
    (32.0, 54.0)
    """
    gathered = element * ranks * keys
    return gathered + 16.0 * outputs, gathered + 4.0 * queries + 17.0 * keys

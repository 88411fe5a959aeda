"""How many bytes sharded states, buffers and the caching allocator take. See docs/equations/memory.md, M1-M14."""

from __future__ import annotations

import numpy as np

from vramsim.units import Num, ceil, ceil_div, maximum, minimum, round_up, where


def flat_shard(numel: Num, ranks: Num) -> Num:
    """One rank's slice of all weights flattened together (ZeRO-1 and ZeRO-2).

    n' = ceil(n / 2N) 2                                                                      (M1)

    numel : elements of the flattened group. [-]   ranks : ranks that share it, N. [-]
    Returns elements of one slice, alignment padding included. [-]
    Source: DeepSpeed runtime/zero/stage_1_and_2.py, partitions aligned to twice the ranks.

    >>> float(flat_shard(1001.0, 4.0))
    252.0
    """
    return where(ranks > 1, round_up(numel, 2.0 * ranks) / ranks, numel)


def parameter_shard(numel: Num, ranks: Num) -> Num:
    """One rank's slice of one weight under ZeRO-3, which pads every weight by itself.

    n' = ceil(n / N)                                                                         (M2)

    numel : elements of the weight. [-]   ranks : ranks that share it, N. [-]
    Returns elements of one slice. [-]
    Source: DeepSpeed runtime/zero/partition_parameters.py.

    >>> float(parameter_shard(10.0, 4.0))
    3.0
    """
    return ceil_div(numel, ranks)


def row_shard(numel: Num, rows: Num, ranks: Num) -> Num:
    """One rank's slice of one weight under FSDP2, which shards dimension 0 and pads it.

    n' = ceil(d0 / N) n / d0                                                                 (M3)

    numel : elements of the weight. [-]   rows : size of dimension 0, d0. [-]   ranks : ranks that share it, N. [-]
    Returns elements of one slice. [-]
    Source: PyTorch torch/distributed/fsdp/_fully_shard/_fsdp_common.py.

    >>> float(row_shard(4096.0 * 10, 10.0, 4.0))
    12288.0
    """
    return ceil_div(rows, ranks) * (numel / rows)


def sub_group(partition: Num, size: Num, largest: Num) -> Num:
    """Elements of the largest ZeRO-3 optimizer sub-group: slices are added until the size is reached.

    n = min(p, s + m)                                                                        (M4)

    partition : elements that one rank owns, p. [-]   size : sub_group_size, s. [-]
    largest : slice of the weight that overshoots, m. [-]
    Returns elements. [-]
    Source: DeepSpeed runtime/zero/stage3.py, _create_fp16_sub_groups.

    >>> float(sub_group(4.4e9, 1e9, 1.5e7))
    1015000000.0
    """
    return minimum(partition, size + largest)


def turn_around(layers: Num, block: Num, head: Num, reuse_distance: Num) -> Num:
    """Elements that ZeRO-3 keeps gathered between the end of forward and the start of backward.

    A weight is kept when it is used again within the reuse distance r: the head always, and the last k blocks,

    k = min(L, ceil((r / 2 - h) / u)),  n = h + k u                                          (M5)

    layers : blocks of the model, L. [-]   block : elements of one, u. [-]   head : elements of the head, h. [-]
    reuse_distance : max_reuse_distance, r. [-]
    Returns elements. [-]
    Source: DeepSpeed runtime/zero/partitioned_param_coordinator.py; a real run keeps a model below r whole.

    >>> float(turn_around(80.0, 8.6e8, 1.05e9, 1e9))
    1050000000.0
    """
    kept = minimum(maximum(ceil_div(reuse_distance / 2.0 - head, block), 0.0), layers)
    return head + kept * block


def step_scratch(flattened: Num, optimizer: Num, freed: Num = 0.0) -> Num:
    """Bytes per element that a mixed-precision step adds for the elements it handles at once.

    The gradient is flattened and cast to fp32 (4 B); then the cast lives beside the optimizer's own scratch, and the
    gradient may be gone.

    b = max(c + 4, 4 + t - f)                                                                (M6)

    flattened : bytes of the flattened copy, c. [B]   optimizer : scratch of the optimizer, t. [B]
    freed : bytes of the gradient freed after the cast, f. [B]
    Returns bytes per element. [B]
    Source: DeepSpeed runtime/zero/stage3.py and stage_1_and_2.py, step.

    >>> float(step_scratch(2.0, 4.0)), float(step_scratch(2.0, 4.0, 2.0))
    (8.0, 6.0)
    """
    return maximum(flattened + 4.0, 4.0 + optimizer - freed)


def reserved(
    allocated: Num, resident: Num, fragmentation: Num, slack: Num, cached: Num = 0.0, unfit: float = 0.0
) -> Num:
    """Bytes that the caching allocator holds when `allocated` are alive at the peak.

    What stays for good is packed once; what comes and goes in ever other sizes leaves gaps, and a base is lost anyway.
    Large buffers of another moment wait for their like: what is alive now fits into some of them only.

    R = A + e max(A - S, 0) + u H + s                                                        (M7)

    allocated : bytes alive, A. [B]   resident : bytes of them that stay through the step, S. [B]
    fragmentation : share of the rest lost to rounding and fragmentation, e. [-]   slack : base, s. [B]
    cached : large buffers that are free again, H. [B]   unfit : share of them that nothing alive fits into, u. [-]
    Returns bytes. [B]
    Source: e, s and u are fitted on published runs by studies/fit_allocator.py; the form is the allocator's.

    >>> reserved(100.0, 60.0, 0.25, 5.0), reserved(100.0, 60.0, 0.25, 5.0, 20.0, 0.5)
    (115.0, 125.0)
    """
    return allocated + fragmentation * maximum(allocated - resident, 0.0) + (unfit * cached + slack)


def squeezed(allocated: Num, reserved: Num, capacity: Num, rigid: Num, whole: Num = 0.0) -> Num:
    """Bytes held when the device is nearly full: before it gives up, the allocator returns the blocks it caches.

    H = max(A + k (R - W - A), min(R, C))                                                    (M9)

    allocated : bytes alive, A. [B]   reserved : bytes held with room to spare, R. [B]   capacity : C. [B]
    rigid : share of the gaps that cannot be returned, since something lives in every segment, k. [-]
    whole : bytes of gaps in which nothing lives, W. [B]
    Returns bytes. [B]
    Source: PyTorch c10/cuda/CUDACachingAllocator.cpp, release_cached_blocks; k is counted on published verdicts by
    studies/fit_allocator.py.

    >>> squeezed(80.0, 100.0, 90.0, 0.25), squeezed(80.0, 100.0, 200.0, 0.25), squeezed(90.0, 100.0, 80.0, 0.0)
    (90.0, 100.0, 90.0)
    """
    return maximum(least_held(allocated, reserved, rigid, whole), minimum(reserved, capacity))


def least_held(allocated: Num, reserved: Num, rigid: Num, whole: Num = 0.0) -> Num:
    """Bytes held when every block that the allocator can return is returned: M9 for a capacity of zero.

    allocated : bytes alive, A. [B]   reserved : bytes held with room to spare, R. [B]   rigid : k. [-]
    whole : bytes of gaps in which nothing lives, W. [B]
    Returns bytes. [B]
    Source: as M9.

    >>> least_held(80.0, 100.0, 0.25)
    85.0
    """
    return allocated + rigid * (reserved - whole - allocated)


def pinned(nbytes: Num) -> Num:
    """Host bytes that PyTorch's pinned allocator takes for one request: the next power of two.

    P = 2^ceil(log2 n)                                                                       (M8)

    nbytes : bytes requested. [B]
    Returns bytes. [B]
    Source: PyTorch c10/core/CachingHostAllocator; an upper bound where a rounding threshold is set.

    >>> float(pinned(5.0))
    8.0
    """
    return where(nbytes > 0, np.exp2(ceil(np.log2(maximum(nbytes, 1.0)))), 0.0)


def main_gradients(numel: Num, size: Num) -> Num:
    """Bytes of Megatron's gradient buffer: one element for each trained parameter on the device, never sharded.

    G = e n                                                                                  (M10)

    numel : trained elements on the device, n. [-]   size : bytes of one accumulated gradient, e. [B]
    Returns bytes. [B]
    Source: Megatron-LM core/distributed/param_and_grad_buffer.py; docs dist_optimizer.md: 6 + 12/d in bf16.

    >>> float(main_gradients(10.0, 4.0))
    40.0
    """
    return numel * size


def dispatched(routed: Num, load: Num) -> Num:
    """Bytes of routed copies on the far side of an expert-parallel all-to-all, on the busiest rank.

    b = l T k h e                                                                            (M11)

    routed : bytes of all routed copies of one rank's tokens, T k h e. [B]   load : tokens over the mean, l. [-]
    Returns bytes. [B]
    Source: Megatron-LM core/transformer/moe/token_dispatcher.py; with capacity factor c, l = c.

    >>> float(dispatched(100.0, 1.5))
    150.0
    """
    return routed * load


def build_peak(early: Num, master: Num, clone: Num) -> Num:
    """Bytes beyond the lasting states while an engine takes a model over: before the master copy exists, or beside it.

    b = max(a - m, c)                                                                        (M12)

    early : bytes of weights alive before the master copy exists, a. [B]   master : bytes of that copy, m. [B]
    clone : bytes of the part of it that is cloned, c. [B]
    Returns bytes. [B]
    Source: DeepSpeed runtime/zero/stage3.py and stage_1_and_2.py; traces: 6 B a parameter over two ranks, 10 over one.

    >>> float(build_peak(2.0, 2.0, 2.0)), float(build_peak(2.0, 4.0, 4.0))
    (2.0, 4.0)
    """
    return maximum(maximum(early - master, 0.0), clone)


def swap_buffers(group: Num, element: Num, count: Num) -> Num:
    """Pinned host bytes through which states go to NVMe and back.

    b = k e n                                                                                (M13)

    group : elements of one buffer, n. [-]   element : bytes of one, e. [B]   count : buffers, k. [-]
    Returns bytes. [B]
    Source: DeepSpeed runtime/swap_tensor/optimizer_utils.py (buffer_count 4), partitioned_param_swapper.py (5 of 1e8).

    >>> float(swap_buffers(1e9, 4.0, 4.0))
    16000000000.0
    """
    return count * element * group


def left_behind(longest: Num, share: Num) -> Num:
    """Bytes of blocks that shorter batches left in the allocator's cache, where batches differ in length.

    H = b T                                                                                  (M14)

    longest : bytes of tensors as long as the batch, at the longest one, T. [B]
    share : bytes that all record batches before the longest took, over the longest's, b. [-]
    Returns bytes. [B]
    Source: PyTorch c10/cuda/CUDACachingAllocator.cpp, get_free_block; b is fitted by studies/fit_allocator.py.

    >>> left_behind(10.0, 1.2)
    12.0
    """
    return share * longest

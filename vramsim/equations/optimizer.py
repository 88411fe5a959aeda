"""What an optimizer keeps per weight, and how long its step takes. Equations O1-O8 of docs/equations/optimizer.md."""

from __future__ import annotations

from vramsim.units import Num


def state_bytes(numel: Num, element: Num, block: Num, scale: Num = 4.0) -> Num:
    """Bytes of one full optimizer state of a weight, stored in blocks with a scale each.

    b = n (e + s / B)                                                                        (O1)

    numel : elements, n. [-]   element : bytes each, e. [B]   block : elements that share a scale, B (0: none). [-]
    scale : bytes of a scale, s. [B]
    Returns bytes. [B]
    Source: bitsandbytes optim/optimizer.py; torchao optim/README.md.

    >>> float(state_bytes(256.0, 1.0, 256.0))
    260.0
    """
    return numel * (element + (scale / block if block else 0.0))


def factored_elements(rows: Num, cols: Num) -> Num:
    """Elements of a factored second moment: a row and a column vector instead of a matrix.

    n = r + c                                                                                (O2)

    rows : rows, r. [-]   cols : columns, c. [-]
    Returns elements. [-]
    Source: Adafactor, arXiv 1804.04235.

    >>> float(factored_elements(512.0, 512.0))
    1024.0
    """
    return rows + cols


def cpu_step_seconds(numel: Num, bytes_per_element: Num, bandwidth: Num) -> Num:
    """Time of an optimizer step on the CPU, which streams its tensors through DRAM.

    t = n b / W                                                                              (O3)

    numel : elements of this rank, n. [-]   bytes_per_element : DRAM traffic, b. [B]
    bandwidth : this rank's share of DRAM bandwidth, W. [B/s]
    Returns seconds. [s]
    Source: ZeRO-Offload, arXiv 2101.06840 (10 B parameters in 2.57 s on two sockets, b = 28).

    >>> float(cpu_step_seconds(1e9, 28.0, 1.1e11))
    0.254...
    """
    return numel * bytes_per_element / bandwidth


def low_rank_elements(small: Num, large: Num, rank: Num) -> tuple[Num, Num]:
    """Elements of a matrix's gradient in a subspace, and of what projects it there: the smaller side is projected.

    n = r l,  p = r m                                                                        (O4)

    small, large : sides of the matrix, m and l. [-]   rank : of the subspace, r <= m. [-]
    Returns elements of the projected gradient and of the projector. [-]
    Source: GaLore, arXiv 2403.03507; galore_torch/galore_projector.py, proj_type std.

    >>> low_rank_elements(4096.0, 11008.0, 128.0)
    (1409024.0, 524288.0)
    """
    return rank * large, rank * small


def newton_schulz_scratch(small: Num, large: Num, element: Num) -> Num:
    """Bytes that orthogonalizing one matrix takes: the update, two bf16 iterates, the Gram matrix and its polynomial.

    b = (e + 4) m l + 4 m^2                                                                  (O5)

    small, large : sides of the matrix, m and l. [-]   element : bytes of one gradient element, e. [B]
    Returns bytes. [B]
    Source: torch.optim._muon in PyTorch 2.13; equal to storages traced there (512 x 512 fp32: 3145728).

    >>> newton_schulz_scratch(512.0, 512.0, 4.0)
    3145728.0
    """
    return (element + 4.0) * small * large + 4.0 * small * small


def newton_schulz_flops(small: Num, large: Num, iterations: Num) -> Num:
    """FLOPs of orthogonalizing one matrix: the Gram matrix, its square, and the product with the iterate.

    f = k (4 m^2 l + 2 m^3)                                                                  (O6)

    small, large : sides of the matrix, m and l. [-]   iterations : k. [-]
    Returns FLOPs. [-]
    Source: torch.optim._muon in PyTorch 2.13: three products an iteration.

    >>> newton_schulz_flops(2.0, 4.0, 5.0)
    400.0
    """
    return iterations * (4.0 * small * small * large + 2.0 * small * small * small)


def projection_scratch(small: Num, large: Num, rank: Num, element: Num) -> Num:
    """Bytes that a step in a subspace takes: three tensors of the subspace, and two updates of the whole matrix.

    b = e (2 m l + 3 r l)                                                                    (O7)

    small, large : sides of the matrix, m and l. [-]   rank : of the subspace, r. [-]
    element : bytes of one gradient element, e. [B]
    Returns bytes. [B]
    Source: galore_torch/adamw.py and apollo_torch/apollo.py; equal to storages traced in PyTorch 2.13.

    >>> projection_scratch(256.0, 768.0, 32.0, 4.0)
    1867776.0
    """
    return element * (2.0 * small * large + 3.0 * rank * large)


def svd_scratch(small: Num, large: Num, element: Num) -> Num:
    """Bytes that a new subspace takes: the gradient in fp32 unless it is, its singular vectors and values.

    b = 4 m l [e < 4] + 4 m l + 4 m^2 + 4 m                                                  (O8)

    small, large : sides of the matrix, m and l. [-]   element : bytes of one gradient element, e. [B]
    Returns bytes. [B]
    Source: galore_torch/galore_projector.py; equal to storages traced in PyTorch 2.13 but for the projector itself.

    >>> svd_scratch(256.0, 768.0, 2.0) + 2 * 32 * 256.0
    1852416.0
    """
    return 4.0 * small * large * (2.0 if element < 4.0 else 1.0) + 4.0 * small * small + 4.0 * small

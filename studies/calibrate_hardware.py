"""Fits the constants of kernel times to measured microbenchmarks, and prints the error on shapes left out of the fit.

Run `python studies/calibrate_hardware.py` from a checkout; it takes a few seconds. Nothing here has seen a training
run: the table `calibration/hardware_calibration.csv` holds products, attention kernels, collectives and copies, each
row with its source. The constants stand in `vramsim/parts/products.py`, `vramsim/parts/kernels.py` and
`vramsim/catalog/devices.csv`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from vramsim import catalog
from vramsim.equations import comm, compute
from vramsim.parts import kernels, products
from vramsim.spec import Device
from vramsim.units import GB, MICROSECOND, TFLOP, GiB, KiB, MiB

TABLE = Path(__file__).parent / "calibration/hardware_calibration.csv"
FOLDS = 5
"""Each fifth of the shapes is predicted by a fit to the other four."""
MEASURED = {"A100 PCIe": "a100-pcie-80gb", "B200 SXM": "b200-sxm-180gb"}
"""Devices with rates by shape, and their names in the catalog."""
UNITS = {"KiB": KiB, "MiB": MiB, "GiB": GiB}

Array = NDArray[np.float64]
Model = Callable[[Array, dict[str, Array]], Array]


def rows(category: str, device: str = "") -> list[dict[str, str]]:
    """Rows of one category (and device) of the table."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["category"] == category]
    return [row for row in found if not device or row["device"] == device]


def number(row: dict[str, str], key: str) -> float:
    """A number named in the text of a shape: k of "m=4096, k=512"."""
    found = re.search(rf"(?:^|[ ,]){key}=(\d+)", row["shape_or_payload"])
    assert found, (row, key)
    return float(found[1])


def held_out(model: Model, start: list[float], data: dict[str, Array]) -> tuple[Array, Array]:
    """Constants fitted to all rows, and errors |predicted / measured - 1| of each row by a fit that left it out."""
    seconds = data["seconds"]

    def fit(chosen: NDArray[np.bool_]) -> Array:
        part = {name: values[chosen] for name, values in data.items()}

        def residuals(logs: Array) -> Array:
            return np.asarray(np.log(model(np.exp(logs), part) / part["seconds"]), dtype=np.float64)

        found = least_squares(residuals, np.log(start), loss="soft_l1", f_scale=0.1).x
        return np.asarray(np.exp(found), dtype=np.float64)

    fold = np.random.default_rng(0).permutation(seconds.size) % FOLDS
    errors = np.empty(seconds.size)
    for index in range(FOLDS):
        out = fold == index
        constants = fit(~out)
        errors[out] = np.abs(model(constants, {k: v[out] for k, v in data.items()}) / seconds[out] - 1.0)
    return fit(np.ones(seconds.size, bool)), errors


def line(name: str, constants: str, errors: Array) -> str:
    """One line of the report."""
    return (
        f"{name:34s} {constants:46s} {errors.size:4d} rows, held-out error {100 * errors.mean():5.1f} % "
        f"(90th percentile {100 * np.quantile(errors, 0.9):5.1f} %)"
    )


def product(rows: float, cols: float, depth: float, rate: float, device: Device, count: float = 1.0) -> float:
    """Seconds of products by C5 and C6 with the constants of `vramsim/parts/products.py`."""
    tiles = (products.LARGE_TILE, products.SMALL_TILE)
    wide, narrow = (
        compute.padded_outputs(rows, cols, tile, device.processors, count, products.WHOLE_WAVES) for tile in tiles
    )
    return float(compute.product_seconds(wide, narrow, depth, rate, products.FILL, products.SMALL_TILE_PENALTY))


def reached(device: Device) -> float:
    """Bandwidth that a streaming kernel reaches. [B/s]"""
    return device.memory_bandwidth * device.memory_efficiency


def products_by_shape() -> Iterator[str]:
    """Best rate, pipeline fill and idle waves of products (C5, C6): 61 layers' forward and both backward products."""
    for name, catalogued in MEASURED.items():
        found, device = rows("gemm_shape_efficiency", name), catalog.device(catalogued)
        m, n, k = (np.array([number(row, key) for row in found]) for key in "mnk")
        flops = 2.0 * m * n * k
        data = {"m": m, "n": n, "k": k, "seconds": flops / np.array([float(row["value"]) * TFLOP for row in found])}
        peak, processors = device.peak("bf16"), device.processors

        def model(c: Array, d: dict[str, Array], peak: float = peak, processors: float = processors) -> Array:
            tiles = (products.LARGE_TILE, products.SMALL_TILE)
            wide, narrow = (
                compute.padded_outputs(d["m"], d["n"], tile, processors, 1.0, float(c[2])) for tile in tiles
            )
            penalty = products.SMALL_TILE_PENALTY
            return np.asarray(compute.product_seconds(wide, narrow, d["k"], peak * c[0], c[1], penalty))

        constants, errors = held_out(model, [0.7, 100.0, 0.5], data)
        text = f"efficiency {constants[0]:.3f}, fill {constants[1]:.0f}, whole waves {constants[2]:.2f}"
        yield line(f"products, {name}", text, errors)
        flat = float(np.median(flops / data["seconds"])) / peak
        constant = np.abs(flops / (flat * peak) / data["seconds"] - 1.0)
        yield line("  one efficiency for all shapes", f"efficiency {flat:.3f}", constant)


def accumulation() -> Iterator[str]:
    """Share of adding a weight's gradient to its fp32 sum that the product does not hide.

    Where it would hide all, the product is as fast beside C6 as the two that write 16 bits; where none, it takes
    reading and writing the sum longer.
    """
    for name, catalogued in MEASURED.items():
        device = catalog.device(catalogued)
        logs: dict[str, list[float]] = {"plain": [], "hidden": [], "serial": []}
        for row in rows("gemm_shape_efficiency", name):
            m, n, k = (number(row, key) for key in "mnk")
            measured = 2.0 * m * n * k / (float(row["value"]) * TFLOP)
            seconds = product(m, n, k, device.peak("bf16") * device.gemm_efficiency, device)
            if "out_dtype=fp32" not in row["shape_or_payload"]:
                if "accumulate=False" in row["shape_or_payload"]:
                    logs["plain"].append(np.log(seconds / measured))
                continue
            operands, whole = (float(compute.product_bytes(m, n, k, 2.0, out)) / reached(device) for out in (0.0, 8.0))
            logs["hidden"].append(np.log(max(seconds, whole) / measured))
            logs["serial"].append(np.log((max(seconds, operands) + whole - operands) / measured))
        plain, hidden, serial = (float(np.exp(np.mean(found))) for found in logs.values())
        share = (plain - hidden) / (serial - hidden)
        spread = np.abs(np.exp(np.array(logs["hidden"]) - np.log(hidden)) - 1.0)
        yield line(f"sums of gradients, {name}", f"share {share:.2f} of their traffic is not hidden", spread)


def grouped_products() -> Iterator[str]:
    """Products of all experts in one launch, over C6 of as many tiles."""
    for name, catalogued in MEASURED.items():
        device = catalog.device(catalogued)
        ratios = []
        for row in rows("grouped_gemm_shape_efficiency", name):
            groups, m, n, k = (number(row, key) for key in ("ng", "M", "N", "K"))
            stage, sums = row["shape_or_payload"], 8.0 if "main_grad_dtype=fp32" in row["shape_or_payload"] else 4.0
            # The table names the forward product; the others turn it.
            shape, out = ((m, n, k), 2.0) if "stage=fwd" in stage else ((m, k, n), 2.0)
            if "stage=bwd_grad_w" in stage:
                shape, out = (n, k, m), sums
            seconds = product(*shape, device.peak("bf16") * device.gemm_efficiency, device, groups)
            nbytes = compute.product_bytes(*shape, 2.0, out, groups)
            bound = max(seconds, float(nbytes) / reached(device))
            ratios.append(bound / (2.0 * groups * m * n * k / (float(row["value"]) * TFLOP)))
        found = np.array(ratios)
        rate = float(np.exp(np.log(found).mean()))
        yield line(f"grouped products, {name}", f"rate {rate:.2f} of one product's", np.abs(found / rate - 1.0))


def attention_by_shape() -> Iterator[str]:
    """Best rate and thread blocks for half of it, of causal flash attention with heads of 128 elements."""
    halves = {"fwd": kernels.FLASH_FORWARD[1], "bwd": kernels.FLASH_BACKWARD[1]}
    for name, catalogued in MEASURED.items():
        device = catalog.device(catalogued)
        for way, half in halves.items():
            found = [r for r in rows(f"attention_{way}_efficiency", name) if number(r, "qk_head_dim") == 128]
            length, heads = (np.array([number(row, key) for row in found]) for key in ("seq_len", "head_num"))
            # The source counts all scores, of which the mask leaves half.
            share = np.array([float(row["efficiency"]) for row in found]) / 2.0
            data = {"length": length, "blocks": heads * np.ceil(length / kernels.FLASH_ROWS), "seconds": 1.0 / share}
            processors = device.processors

            def model(c: Array, d: dict[str, Array], half: float = half, processors: float = processors) -> Array:
                filled = compute.saturation(d["blocks"], c[1] * processors)
                return np.asarray(1.0 / (c[0] * filled * compute.saturation(d["length"], half)))

            constants, errors = held_out(model, [0.6, 1.0], data)
            text = f"efficiency {constants[0]:.3f}, half at {constants[1]:.2f} blocks a processor"
            yield line(f"attention {way}, {name}", text, errors)
        yield attention_rate(name, device)


def attention_rate(name: str, device: Device) -> str:
    """The catalog's efficiency of attention, for heads of all sizes, by the constants of `vramsim/parts/kernels.py`."""
    ratios = []
    for way, halves in (("fwd", kernels.FLASH_FORWARD), ("bwd", kernels.FLASH_BACKWARD)):
        best = kernels.FLASH_BACKWARD_RATE if way == "bwd" else 1.0
        for row in rows(f"attention_{way}_efficiency", name):
            length, heads, *sizes = (number(row, k) for k in ("seq_len", "head_num", "qk_head_dim", "v_head_dim"))
            filled = compute.saturation(heads * np.ceil(length / kernels.FLASH_ROWS), halves[0] * device.processors)
            shape = compute.saturation(sum(sizes) / 2.0, kernels.FLASH_HEAD) / compute.saturation(
                128.0, kernels.FLASH_HEAD
            )
            expected = best * filled * shape * compute.saturation(length, halves[1])
            ratios.append(float(row["efficiency"]) / 2.0 / float(expected))
    found = np.array(ratios)
    rate = float(np.exp(np.log(found).mean()))
    return line(f"attention, {name}", f"efficiency {rate:.3f} with the constants in use", np.abs(rate / found - 1.0))


def all_reduces() -> Iterator[str]:
    """All-reduces by size against N4 with the catalog's share of the link: nothing is fitted."""
    for text, name in (("A100 SXM NVLink3 (1 node)", "a100-sxm-80gb"), ("GB200 NVLink5 (1 node)", "gb200-186gb")):
        device = catalog.device(name)
        errors = []
        for row in rows("allreduce_busbw", text):
            amount, unit = re.fullmatch(r"(\d+)(\w+)", row["shape_or_payload"]).groups()  # type: ignore[union-attr]
            ranks, nbytes = float(row["n_devices"]), float(amount) * UNITS[unit]
            measured = 2.0 * nbytes * (ranks - 1.0) / ranks / (float(row["value"]) * GB)
            bandwidth = device.scale_up_bandwidth * device.network_efficiency
            hops = (4.0 * MICROSECOND, 14.0 * MICROSECOND)
            errors.append(abs(comm.all_reduce_seconds(nbytes, ranks, ranks, bandwidth, hops) / measured - 1.0))
        yield line(f"all-reduces, {text}", f"efficiency {device.network_efficiency:.2f} (catalog)", np.array(errors))


def sustained() -> Iterator[str]:
    """Large products of long runs: the catalog's efficiency, and C6 with it over all shapes."""
    names = {"A100 SXM": "a100-sxm-80gb", "H100 SXM": "h100-sxm-80gb", "H200 SXM": "h200-sxm-141gb"}
    names |= {"GB200 SXM": "gb200-186gb", "MI300X": "mi300x-192gb"}
    for text, name in names.items():
        device, errors, large = catalog.device(name), [], []
        for row in rows("gemm_sustained", text):
            m, n, k = (float(each) for each in row["shape_or_payload"].split("x"))
            rate = float(row["theoretical"]) * TFLOP * device.gemm_efficiency
            size = 1.0 if row["precision_or_op"] == "fp8" else 2.0
            nbytes = compute.product_bytes(m, n, k, size, 2.0)
            bound = max(product(m, n, k, rate, device), float(nbytes) / reached(device))
            measured = 2.0 * m * n * k / (float(row["value"]) * TFLOP)
            errors.append(abs((bound + products.KERNEL_TAIL) / measured - 1.0))
            if min(m, n, k) >= 8192:
                large.append(float(row["efficiency"]))
        text = f"efficiency {device.gemm_efficiency:.2f} (measured, large: {np.mean(large):.2f})"
        yield line(f"sustained products, {device.name}", text, np.array(errors))


def main() -> None:
    """Print all fits."""
    for part in (products_by_shape, accumulation, grouped_products, attention_by_shape, all_reduces, sustained):
        print(*part(), sep="\n")


if __name__ == "__main__":
    main()

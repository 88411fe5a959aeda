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


def products_by_shape() -> Iterator[str]:
    """Best rate and pipeline fill of matrix products (C5, C6): 61 layers' forward and both backward products."""
    for name, catalogued in MEASURED.items():
        found, device = rows("gemm_shape_efficiency", name), catalog.device(catalogued)
        m, n, k = (np.array([number(row, key) for row in found]) for key in "mnk")
        flops = 2.0 * m * n * k
        data = {"m": m, "n": n, "k": k, "seconds": flops / np.array([float(row["value"]) * TFLOP for row in found])}
        peak, processors = device.peak("bf16"), device.processors

        def model(c: Array, d: dict[str, Array], peak: float = peak, processors: float = processors) -> Array:
            wide = compute.padded_outputs(d["m"], d["n"], products.LARGE_TILE, processors)
            narrow = compute.padded_outputs(d["m"], d["n"], products.SMALL_TILE, processors)
            penalty = products.SMALL_TILE_PENALTY
            return np.asarray(compute.product_seconds(wide, narrow, d["k"], peak * c[0], c[1], penalty))

        constants, errors = held_out(model, [0.7, 100.0], data)
        yield line(f"products, {name}", f"efficiency {constants[0]:.3f}, fill {constants[1]:.0f}", errors)
        flat = float(np.median(flops / data["seconds"])) / peak
        constant = np.abs(flops / (flat * peak) / data["seconds"] - 1.0)
        yield line("  one efficiency for all shapes", f"efficiency {flat:.3f}", constant)


def grouped_products() -> Iterator[str]:
    """Products of all experts in one launch, over C6 of as many tiles."""
    for name, catalogued in MEASURED.items():
        device = catalog.device(catalogued)
        ratios = []
        for row in rows("grouped_gemm_shape_efficiency", name):
            groups, m, n, k = (number(row, key) for key in ("ng", "M", "N", "K"))
            wide = compute.padded_outputs(m, n, products.LARGE_TILE, device.processors, groups)
            narrow = compute.padded_outputs(m, n, products.SMALL_TILE, device.processors, groups)
            rate, penalty = device.peak("bf16") * device.gemm_efficiency, products.SMALL_TILE_PENALTY
            seconds = compute.product_seconds(wide, narrow, k, rate, products.FILL, penalty)
            nbytes = compute.product_bytes(m, n, k, 2.0, 2.0, groups)
            bound = np.maximum(seconds, nbytes / (device.memory_bandwidth * device.memory_efficiency))
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
            wide = compute.padded_outputs(m, n, products.LARGE_TILE, device.processors)
            narrow = compute.padded_outputs(m, n, products.SMALL_TILE, device.processors)
            rate = float(row["theoretical"]) * TFLOP * device.gemm_efficiency
            seconds = compute.product_seconds(wide, narrow, k, rate, products.FILL, products.SMALL_TILE_PENALTY)
            size = 1.0 if row["precision_or_op"] == "fp8" else 2.0
            nbytes = compute.product_bytes(m, n, k, size, 2.0)
            bound = float(np.maximum(seconds, nbytes / (device.memory_bandwidth * device.memory_efficiency)))
            measured = 2.0 * m * n * k / (float(row["value"]) * TFLOP)
            errors.append(abs((bound + products.KERNEL_TAIL) / measured - 1.0))
            if min(m, n, k) >= 8192:
                large.append(float(row["efficiency"]))
        text = f"efficiency {device.gemm_efficiency:.2f} (measured, large: {np.mean(large):.2f})"
        yield line(f"sustained products, {device.name}", text, np.array(errors))


def main() -> None:
    """Print all fits."""
    for part in (products_by_shape, grouped_products, attention_by_shape, all_reduces, sustained):
        print(*part(), sep="\n")


if __name__ == "__main__":
    main()

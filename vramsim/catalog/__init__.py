"""What has a name: data files with a source per row, and their loader."""

from vramsim.catalog.load import (
    describe,
    device,
    framework,
    framework_choices,
    make_framework,
    make_optimizer,
    model,
    names,
    node,
    optimizer,
    powered,
    precision,
    quantization,
)

__all__ = [
    "describe",
    "device",
    "framework",
    "framework_choices",
    "make_framework",
    "make_optimizer",
    "model",
    "names",
    "node",
    "optimizer",
    "powered",
    "precision",
    "quantization",
]

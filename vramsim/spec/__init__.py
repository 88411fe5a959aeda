"""The nouns: frozen records that every floor above shares, and nothing that computes.

A `Setup` is one training run as the physics sees it: model, cluster, framework, training, strategy, with every name
looked up and every default filled in. Fields annotated `Num` may be numbers or broadcastable arrays (an open grid);
everything else is structure, and decides *which* parts exist. Parts turn a Setup into `Component`s (bytes that live
somewhere), `Flow`s (bytes that move) and `Work` (FLOPs), each tagged with the phases of a training step.
"""

from __future__ import annotations

from vramsim.spec.ledger import (
    ALWAYS,
    MICRO_STEP,
    TRAINING,
    Category,
    Component,
    Flow,
    Link,
    Moment,
    Phase,
    Tier,
    Work,
    beside,
    most,
    without,
)
from vramsim.spec.machine import Cluster, Device, Measured
from vramsim.spec.mixers import Attention, LatentAttention, LinearAttention
from vramsim.spec.model import Block, Encoder, Mixer, Mlp, Model
from vramsim.spec.recipe import Framework, Lora, Optimizer, OptimizerState, Precision, Quantization, Strategy, Training
from vramsim.spec.setup import Setup, Stage, derived, dtype_bytes
from vramsim.spec.terms import Ownership, Power, Reliability

__all__ = [
    "ALWAYS",
    "MICRO_STEP",
    "TRAINING",
    "Attention",
    "Block",
    "Category",
    "Cluster",
    "Component",
    "Device",
    "Encoder",
    "Flow",
    "Framework",
    "LatentAttention",
    "LinearAttention",
    "Link",
    "Lora",
    "Measured",
    "Mixer",
    "Mlp",
    "Model",
    "Moment",
    "Optimizer",
    "OptimizerState",
    "Ownership",
    "Phase",
    "Power",
    "Precision",
    "Quantization",
    "Reliability",
    "Setup",
    "Stage",
    "Strategy",
    "Tier",
    "Training",
    "Work",
    "beside",
    "derived",
    "dtype_bytes",
    "most",
    "without",
]

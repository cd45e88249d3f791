"""An estimate on the terminal."""

from rich.console import Console
from rich.table import Table

from planc.compiler.estimate import Estimate
from planc.units import format_bytes, format_ns

_BAR = 24
_KINDS = 8
"""Most kinds of layers whose saved activations are told one by one."""


def print_estimate(console: Console, found: Estimate, name: str) -> None:
    """The parts of a step's memory as bars, its peak and smallest budget, and the catalogue's cards."""
    console.print(f"{name}: {found.layers:,} layers, {found.operators:,} operators\n")
    _print_parts(console, found)
    console.print(
        f"\nliveness peak    {format_bytes(found.liveness_peak_bytes)}, in {found.liveness_peak_layer}\n"
        f"smallest budget  {format_bytes(found.minimum_budget_bytes)}, set by {found.minimum_layer}\n"
        f"on the host      {format_bytes(found.host_bytes)} if everything is swapped that can be\n"
    )
    _print_cards(console, found)
    console.print(f"\nnext: {_next(found, name)}")


def _next(found: Estimate, name: str) -> str:
    budget = "50%" if found.liveness_peak_bytes // 2 >= found.minimum_budget_bytes else "min"
    if name.endswith(".onnx"):
        return f"planc compile {name} --budget {budget}"
    return f"planc zoo build {name} -o {name}.onnx && planc compile {name}.onnx --budget {budget}"


def _print_parts(console: Console, found: Estimate) -> None:
    parts = [
        ("parameters", found.parameters_bytes),
        ("optimizer state, statistics", found.optimizer_bytes),
        ("gradients", found.gradients_bytes),
        ("saved for the backward pass", found.saved_bytes),
        *((f"  by {kind}", size) for kind, size in list(found.saved.items())[:_KINDS]),
        ("batch", found.batch_bytes),
        ("constants", found.constants_bytes),
        (f"most in {found.largest_working_layer}", found.largest_working_bytes),
        (f"scratch, as on {found.scratch_device}", found.scratch_bytes),
    ]
    most = max(size for _, size in parts) or 1
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, max_width=36)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for label, size in parts:
        if size:
            table.add_row(label, format_bytes(size), "█" * max(1, round(_BAR * size / most)))
    console.print(table)


def _print_cards(console: Console, found: Estimate) -> None:
    table = Table(box=None, pad_edge=False)
    for title, right in (("card", False), ("memory", True), ("alone", False), ("planned", False), ("step", True)):
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for card in sorted(found.cards, key=lambda c: (c.memory_bytes, c.card)):
        fits = ("fits" if card.fits else "no", "fits" if card.fits_planned else "no")
        table.add_row(card.card, format_bytes(card.memory_bytes), *fits, f"~{format_ns(card.step_ns)}")
    console.print(table)

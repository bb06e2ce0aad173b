"""Sink dimensions for `var`, by the detector of `sinkbench inspect sink-dims`."""

from dataclasses import dataclass
from typing import ClassVar

from sinkbench.calibration.base import Bench, Calibrator, Found
from sinkbench.diagnostics.sink_dims import default_layers, default_tau, find_sink_dims
from sinkbench.diagnostics.visual_sinks import tau_for
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.inspection.first_token import first_token_states, massive_evidence
from sinkbench.inspection.prompts import PROMPTS
from sinkbench.methods.var import Var
from sinkbench.request import IMAGE_PLACEHOLDER, Message, Request


@dataclass(frozen=True)
class FindSinks(Calibrator):
    """Dimensions that stand out in the first token of text-only prompts, and the threshold by which they mark sinks.

    Attributes:
        detector_tau: A dimension stands out where |x_k| / RMS(x) exceeds this; 0: 20, or less for narrow models
            (`diagnostics.sink_dims.default_tau`). `var.tau`, which judges tokens by the dimensions found, stays what
            --set or configs/methods say of the model; else it is VAR's 20, or the same share of a token's energy in a
            narrower model (`diagnostics.visual_sinks.tau_for`).
    """

    detector_tau: float = 0.0

    needs_task: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.detector_tau < 0:
            raise UsageError(f"var.detector_tau={self.detector_tau} is negative", "Give 0 or a positive number.")

    def measure(self, bench: Bench) -> Found:
        """Run the detector on a task's questions without their images, or on the built-in prompts."""
        info = bench.adapter.info
        texts = dict.fromkeys(
            each.request.messages[-1].text.replace(IMAGE_PLACEHOLDER, "").strip() for each in bench.questions
        )
        requests = [Request(str(i), (Message("user", text),)) for i, text in enumerate(texts or PROMPTS)]
        layers = default_layers(info.n_layers)
        hidden = first_token_states(bench.adapter, requests, layers)
        found = find_sink_dims(hidden, layers, self.detector_tau or default_tau(info.hidden_size))
        if not found.dims:
            raise SinkbenchError(
                f"no dimension of {info.name} exceeds {found.tau:.3g} times the root mean square in most layers (the "
                f"strongest reaches {found.runner_up:.3g}): it has no massive activations at the first token",
                f"Try a lower bound, such as --set var.detector_tau={0.9 * found.runner_up:.2g}; or choose by hand: "
                "sinkbench eval ... --set 'var.sink_dims=[...]'.",
            )
        evidence = {
            "detector_tau": found.tau,
            "layers": list(found.layers),
            "ratios": {str(dim): list(ratios) for dim, ratios in found.ratios.items()},
            "runner_up": found.runner_up,
            "prompts": found.n_prompts,
            "massive": massive_evidence(bench.adapter, requests)["dims"],
        }
        table = [("layer", *(f"|x| / RMS, dimension {dim}" for dim in found.dims))]
        table += [
            (str(layer), *(f"{found.ratios[dim][place]:.1f}" for dim in found.dims))
            for place, layer in enumerate(found.layers)
        ]
        chosen = bench.method.params()["tau"]
        tau = round(min(Var.tau, tau_for(info.hidden_size)), 2) if chosen == Var.tau else chosen
        return Found({"sink_dims": list(found.dims), "tau": tau}, evidence, table)

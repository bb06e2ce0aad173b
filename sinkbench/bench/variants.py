"""Methods as they are measured: with parameters under which each acts on any model, random weights included."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from sinkbench.adapters.base import Adapter
from sinkbench.bench.baselines import packed
from sinkbench.bench.measure import prepare
from sinkbench.bench.settings import ATTENTION_ONLY
from sinkbench.bench.workloads import pope
from sinkbench.engine.context import Role
from sinkbench.methods import get_method
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.var import sink_statistic
from sinkbench.request import ImageRef

_SINK_SHARE = 0.25
"""Share of image tokens that count as sinks where the threshold is made up."""

Parameters = Mapping[str, Mapping[str, Any]]
"""Values by method and parameter."""


def variant(
    name: str, model: ModelInfo, made_up: Parameters, given: Mapping[str, Any] = MappingProxyType({})
) -> Method:
    """A method by its name in the benchmark, bound once to see that it fits the model.

    Args:
        name: A method, `a+b`, or "pai-attention".
        model: What it will act on.
        made_up: See `made_up_parameters`.
        given: Values by "method.param" that go before all others; with a profile, nothing else is set of its method.

    Raises:
        UsageError: A name is unknown, or the model lacks something that the method needs.
    """
    # GIFT so needs no tagger, and looks at more rows than content words have.
    rising = [layer / model.n_layers for layer in range(model.n_layers)]
    fixed: Parameters = {
        "gift": {"content": "all"},
        ATTENTION_ONLY: {"gamma": 1.0},
        "dual_stream": {} if model.vision_class_tokens else {"queries": "mean"},
        # Random weights seldom do what these wait for.
        "damo": {"tau": 1.0},
        "sparc": {"tau": 0.0},
        "act": {"all_heads": True},
        "vflowopt": {"keep": 0.25},
        "iri": {"rates_attn": rising, "rates_mlp": rising},
        "debias": {"trend": [1.0]},
    }
    params: dict[str, Any] = {}
    for part in name.split("+"):
        method = part.replace(ATTENTION_ONLY, "pai")
        values = {} if f"{method}.profile" in given else {**made_up.get(part, {}), **fixed.get(part, {})}
        params |= {f"{method}.{key}": value for key, value in values.items()}
        params |= {key: value for key, value in given.items() if key.partition(".")[0] == method}
    found = get_method(name.replace(ATTENTION_ONLY, "pai"), params, model.name)
    found.bind(model)
    return found


@torch.inference_mode()
def made_up_parameters(adapter: Adapter, images: Sequence[ImageRef]) -> Parameters:
    """Parameters of methods that otherwise leave a model without sinks alone.

    VAR gets two arbitrary sink dimensions, and the threshold that a quarter of the image tokens exceed.

    Args:
        adapter: The model.
        images: What its states are looked at with.
    """
    size = adapter.info.hidden_size
    sink_dims = (size // 3, 2 * size // 3)
    probe = prepare(adapter, pope(images, 1), lambda prompts: [prompts])
    inputs = packed(adapter, probe.prompts, probe.inputs)
    states = adapter.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states
    longest = inputs["input_ids"].shape[1]
    seen = []
    for row, prompt in enumerate(probe.prompts):
        places = (prompt.roles == Role.IMAGE).nonzero()[:, 0].to(adapter.device) + longest - len(prompt)
        seen += [sink_statistic(hidden[row, places], sink_dims) for hidden in states[2:-1]]
    return {"var": {"sink_dims": list(sink_dims), "tau": float(torch.cat(seen).quantile(1 - _SINK_SHARE))}}

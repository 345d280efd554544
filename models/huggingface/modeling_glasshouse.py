"""Any GPT as a model of `transformers`, for settings that no architecture there has (token shift, convolutions).

A folder written by `models.huggingface.export.save(..., custom_code=True)` holds this file and those that it imports;
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` then works without this repository. It has no
cache: every new token costs a pass over the whole text, so `models.decode.sampling` is the fast way to sample.

The invariant that matters: the logits at real tokens are the GPT's own, whichever side the padding is on.

Legend: B batch, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from models.gpt import GPT, GPTConfig
from models.ops import causal_conv


class GlasshouseConfig(PreTrainedConfig):
    """`gpt` holds the settings of `models.gpt.GPTConfig`."""

    model_type = "glasshouse"

    def __init__(self, gpt: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.gpt = dict(gpt or {})
        super().__init__(**{**kwargs, "tie_word_embeddings": False})  # the GPT ties its own

    @property
    def vocab_size(self) -> int:
        return self.gpt["vocab_size"]

    @property
    def num_hidden_layers(self) -> int:
        return self.gpt["n_layer"]

    @property
    def hidden_size(self) -> int:
        return self.gpt["n_embd"]

    @property
    def max_position_embeddings(self) -> int:
        return self.gpt["context"]


@dataclass
class GlasshouseOutput(CausalLMOutput):
    """With what the unembedding reads, [B, T, C], for trainers that project it themselves."""

    last_hidden_state: Tensor | None = None


class Lookup(nn.Module):
    """The embedding of each token, what `inputs_embeds` takes the place of; the model's own matrix."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = (gpt,)  # in a tuple, so that it is no part of this module
        self.bias = None

    @property
    def weight(self) -> Tensor:
        return self.gpt[0].embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        return F.embedding(input_ids, self.weight)


class GlasshouseForCausalLM(PreTrainedModel, GenerationMixin):
    """A GPT with the interface of a causal language model of `transformers`."""

    config_class = GlasshouseConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    lookup: Lookup

    def __init__(self, config: GlasshouseConfig) -> None:
        super().__init__(config)
        self.gpt = GPT(GPTConfig(**config.gpt))
        self.__dict__["lookup"] = Lookup(self.gpt)  # no module of this one: its weights are the GPT's
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The GPT has filled its weights itself."""

    def get_input_embeddings(self) -> nn.Module:
        return self.lookup

    def get_output_embeddings(self) -> nn.Module:
        return self.lookup if self.gpt.unembed is None else self.gpt.unembed

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The whole text at every step: there is no cache. Embeddings that are given stand for the prompt, and
        `input_ids` then holds what was generated behind it."""
        if inputs_embeds is None:
            return {"input_ids": input_ids, "attention_mask": attention_mask}
        whole = torch.cat([inputs_embeds, self.lookup(input_ids)], 1)
        return {"inputs_embeds": whole, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> GlasshouseOutput:
        """Logits [B, T, V], or [B, K, V] of the last `logits_to_keep` = K; with labels [B, T] (-100: ignored) also the
        mean next-token loss; with `output_hidden_states` what enters each block and, last, what the unembedding reads,
        each [B, T, C]. `inputs_embeds` [B, T, C] takes the place of the tokens' embeddings. Left padding is moved to
        the right, where causal attention ignores it, and what comes out is moved back."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids and inputs_embeds: both or neither are given; accepted: one of the two")
        x_BTC = self.lookup(input_ids) if inputs_embeds is None else inputs_embeds
        left_B1 = None
        if attention_mask is not None:
            left_B1 = (attention_mask.cumsum(1) == 0).sum(1, keepdim=True)
            x_BTC = _rotated(x_BTC, left_B1)
        states = self._states(x_BTC)
        if left_B1 is not None:
            keep = states if output_hidden_states else states[-1:]
            states = [_rotated(state, -left_B1) for state in keep]
        kept = states[-1][:, -logits_to_keep:] if logits_to_keep else states[-1]
        logits_BTV = F.linear(kept, self.gpt.unembedding).float()
        loss = None
        if labels is not None:
            targets = labels[:, -logits_to_keep:] if logits_to_keep else labels
            loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        hidden = tuple(states) if output_hidden_states else None
        return GlasshouseOutput(loss=loss, logits=logits_BTV, hidden_states=hidden, last_hidden_state=states[-1])

    def _states(self, x_BTC: Tensor) -> list[Tensor]:
        """What enters each block, and what the unembedding reads."""
        gpt = self.gpt
        if x_BTC.shape[1] > gpt.config.context:
            raise ValueError(f"context={gpt.config.context}: too short for {x_BTC.shape[1]} tokens")
        if gpt.embed.shift is not None:
            x_BTC = causal_conv(x_BTC, gpt.embed.shift, None, None)
        rope, states = gpt.rope(slice(x_BTC.shape[1]), x_BTC.device), []
        for block in gpt.blocks:
            states.append(x_BTC)
            if self.gradient_checkpointing and self.training:
                x_BTC = self._gradient_checkpointing_func(block.__call__, x_BTC, rope, None)
            else:
                x_BTC = block(x_BTC, rope, None)
        return [*states, gpt.ln_final(x_BTC)]


def _rotated(x_BTC: Tensor, by_B1: Tensor) -> Tensor:
    """Each row moved to the left by its number of positions; what leaves at one end comes in at the other."""
    at_T = torch.arange(x_BTC.shape[1], device=x_BTC.device)
    return x_BTC.gather(1, ((at_T + by_B1) % len(at_T))[..., None].expand_as(x_BTC))

"""Any GPT as a model of `transformers`, for settings that no architecture there has (token shift, convolutions).

A folder written by `models.huggingface.export.save(..., custom_code=True)` holds this file and those that it imports;
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` then works without this repository. It has no
cache: every new token costs a pass over the whole text, so `models.decode.sampling` is the fast way to sample.

The invariant that matters: the logits at real tokens are the GPT's own, whichever side the padding is on.

Legend: B batch, T tokens, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from models.gpt import GPT, GPTConfig


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


class GlasshouseForCausalLM(PreTrainedModel, GenerationMixin):
    """A GPT with the interface of a causal language model of `transformers`."""

    config_class = GlasshouseConfig
    main_input_name = "input_ids"

    def __init__(self, config: GlasshouseConfig) -> None:
        super().__init__(config)
        self.gpt = GPT(GPTConfig(**config.gpt))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The GPT has filled its weights itself."""

    def get_input_embeddings(self) -> nn.Module:
        return self.gpt.embed

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole text at every step: there is no cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> CausalLMOutput:
        """Logits [B, T, V]; with labels [B, T] (-100: ignored) also the mean next-token loss. Left padding is moved to
        the right, where causal attention ignores it, and the logits are moved back."""
        if attention_mask is None:
            logits_BTV = self.gpt(input_ids)
        else:
            at_T = torch.arange(input_ids.shape[1], device=input_ids.device)
            left_B1 = (attention_mask.cumsum(1) == 0).sum(1, keepdim=True)
            shifted_BTV = self.gpt(input_ids.gather(1, (at_T + left_B1) % len(at_T)))
            back_BT = (at_T - left_B1) % len(at_T)
            logits_BTV = shifted_BTV.gather(1, back_BT[..., None].expand_as(shifted_BTV))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits_BTV)

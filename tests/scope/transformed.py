"""Models of `transformers` from small configurations, with random weights, and the junctions that each has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def ids() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 50, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}


def pairs() -> dict[str, Any]:
    return ids() | {"decoder_input_ids": torch.randint(0, 50, (2, 5))}


def pixels(size: int = 32) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": torch.randn(2, 3, size, size)}


def _gpt2(t: Any) -> Any:
    return t.GPT2LMHeadModel(t.GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=16))


def _llama(t: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    return t.LlamaForCausalLM(t.LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=50))


def _bert(t: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    return t.BertModel(t.BertConfig(**sizes, vocab_size=50, attn_implementation="eager"))


def _t5(t: Any) -> Any:
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2}
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, vocab_size=50, decoder_start_token_id=0))


def _vit(t: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    return t.ViTModel(t.ViTConfig(**sizes, image_size=32, patch_size=8))


def _swin(t: Any) -> Any:
    return t.SwinModel(
        t.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)
    )


def _convnext(t: Any) -> Any:
    return t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], patch_size=2))


def _resnet(t: Any) -> Any:
    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3])
    return t.ResNetModel(config)


def _mixtral(t: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return t.MixtralForCausalLM(
        t.MixtralConfig(**sizes, num_key_value_heads=1, vocab_size=50, num_local_experts=3, output_router_logits=True)
    )


def _qwen_moe(t: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = {"num_experts": 4, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
    return t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(**sizes, **experts, num_key_value_heads=1, vocab_size=50))


def _gptj(t: Any) -> Any:
    return t.GPTJForCausalLM(t.GPTJConfig(n_layer=2, n_embd=16, n_head=2, rotary_dim=4, vocab_size=50, n_positions=16))


def _mamba(t: Any) -> Any:
    return t.MambaForCausalLM(t.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=50))


TRANSFORMED: dict[str, tuple[Callable[[Any], Any], Callable[[], Any], dict[str, int]]] = {
    "gpt-2": (_gpt2, ids, {"identity": 6}),
    "llama": (_llama, ids, {"identity": 6}),
    "bert": (_bert, ids, {"identity": 6}),
    "t5": (_t5, pairs, {"identity": 10}),  # two a block of the encoder, three a block of the decoder
    "vit": (_vit, pixels(), {"identity": 6}),
    "swin": (_swin, pixels(), {"identity": 8}),
    "convnext": (_convnext, pixels(), {"identity": 5}),
    "resnet-50": (_resnet, pixels(), {"projection": 4, "identity": 12}),
    "mixtral": (_mixtral, ids, {"identity": 4}),
    "qwen2 with experts": (_qwen_moe, ids, {"identity": 4}),
    "gpt-j": (_gptj, ids, {"identity": 2}),
    "mamba": (_mamba, ids, {"identity": 2}),
}
"""name -> (how it is made, a batch, how many of each kind)."""


def transformed(name: str) -> tuple[Any, Any]:
    """A model and its batch, always the same."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        make, batch, _ = TRANSFORMED[name]
        return make(transformers), batch()

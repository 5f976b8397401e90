"""The networks of nano as classes of diffusers and transformers, and the encoding of a prompt.

SD3.5 at a small scale: two CLIPs, a T5, an MMDiT-X with QK-norm and dual attention in its first blocks, a 16-channel VAE.
B batch, L text tokens (77 of CLIP, then T5's), J joint width.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ..settings import NANO, STATE, T5_VOCABULARY, VOCABULARY

JOINT = 192
CLIP_WIDTHS = (64, 128)
LAYERS, DUAL = 8, (0, 1)
CLIP_TOKENS = 77
T5_TOKENS = 256  # padded length in diffusers
SHIFT = 3.0
GUIDANCE = 5.0
# The last noise level of turbo's four steps; without it, one step would be between two levels near zero.
TURBO_TERMINAL = 0.3
# Flash's intermediate noise level is turbo's third one, so that each step of flash spans two steps of turbo.
FLASH_TERMINAL = 0.719
CHANNELS, SIDE = 16, 32  # of the latent of a 256 × 256 image


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96, 96), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1, latent_channels=CHANNELS, norm_num_groups=16, sample_size=8 * SIDE, use_quant_conv=False,
        use_post_quant_conv=False, force_upcast=True,
    )


def transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=LAYERS, attention_head_dim=64,
        num_attention_heads=3, joint_attention_dim=JOINT, caption_projection_dim=JOINT, pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=SIDE, dual_attention_layers=DUAL, qk_norm="rms_norm",
    )


def clip(width: int, layers: int, activation: str) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 32,
        max_position_embeddings=CLIP_TOKENS, hidden_act=activation, projection_dim=width, bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1,
    ))


class TextEncoders(nn.Module):
    """CLIP-L-like, CLIP-G-like and T5-like; ids in, the prompt's embedding [B, L, J] and pooled vector [B, P] out."""

    def __init__(self):
        super().__init__()
        self.text_encoder = clip(CLIP_WIDTHS[0], 4, "quick_gelu")
        self.text_encoder_2 = clip(CLIP_WIDTHS[1], 3, "gelu")
        self.text_encoder_3 = T5EncoderModel(T5Config(
            vocab_size=T5_VOCABULARY, d_model=JOINT, d_ff=384, d_kv=32, num_layers=3, num_heads=6, feed_forward_proj="gated-gelu",
            dropout_rate=0.0, is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
        ))

    def forward(self, ids: dict[str, torch.Tensor], with_t5: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`with_t5` [B]: 0 replaces T5's output by zeros, as diffusers does without the encoder."""
        hidden, pooled = [], []
        for encoder, key in ((self.text_encoder, "clip_l"), (self.text_encoder_2, "clip_g")):
            out = encoder(ids[key], output_hidden_states=True)
            hidden.append(out.hidden_states[-2])
            pooled.append(out.text_embeds)
        t5 = self.text_encoder_3(ids["t5"])[0] * with_t5.view(-1, 1, 1)
        joint = torch.cat(hidden, -1)
        joint = nn.functional.pad(joint, (0, JOINT - joint.shape[-1]))
        return torch.cat([joint, t5.to(joint.dtype)], 1), torch.cat(pooled, -1)


class Tokenizers:
    """Captions to ids {clip_l, clip_g, t5}: [B, 77], [B, 77], [B, `t5_tokens`]."""

    def __init__(self):
        self.each = [AutoTokenizer.from_pretrained(STATE / name) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]

    def __call__(self, captions: list[str], t5_tokens: int = T5_TOKENS) -> dict[str, torch.Tensor]:
        lengths = (CLIP_TOKENS, CLIP_TOKENS, t5_tokens)
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = [tokenizer(captions, max_length=length, **options).input_ids for tokenizer, length in zip(self.each, lengths)]
        return dict(zip(("clip_l", "clip_g", "t5"), ids))


def scheduler(shift_terminal: float | None = None) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=shift_terminal)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def save(module: nn.Module, folder: str) -> None:
    """Writes a network in float16 into its folder of the diffusers layout."""
    Path(NANO / folder).mkdir(parents=True, exist_ok=True)
    module.to("cpu", torch.float16).save_pretrained(NANO / folder)

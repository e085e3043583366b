"""The settings of networks, as values; the fields and defaults of the group `network`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class UNetSettings:
    """Of `unet.UNet`, for images.

    Attributes:
      channels: at full resolution.
      channel_mult: multiplier of each resolution.
      num_blocks: blocks a resolution.
      attention_resolutions: heights with self-attention.
      attention_middle: whether the decoder's first block attends at any height.
      head_channels: channels of an attention head.
      dropout: of activations in training.
      dtype: of the computation, float32 or bfloat16.
    """

    channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2)
    num_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (4,)
    attention_middle: bool = True
    head_channels: int = 64
    dropout: float = 0.0
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class MLPSettings:
    """Of `mlp.MLP`, for vectors.

    Attributes:
      width: hidden features.
      num_blocks: residual blocks.
      dropout: of activations in training.
      dtype: of the computation, float32 or bfloat16.
    """

    width: int = 128
    num_blocks: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

"""Operations, parameters and bytes of what is measured here, counted from shapes alone.

Only products of matrices and convolutions count, a multiplication with its addition as one product,
two floating-point operations. Element-wise work, normalisations and softmaxes do not: on
accelerators they cost time by the bytes they move. A backward pass is taken as twice the forward
one, the convention of model FLOPs utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix
B), and what rematerialisation computes again is not counted.
"""

from typing import NamedTuple


class UNetOperations(NamedTuple):
    """Of `networks.UNet`.

    Attributes:
      products: of a forward pass of one image.
      attention: those of them of queries with keys and of attention with values; they grow as the
        fourth power of the image's side, all others as its square or not at all.
      parameters: of the network.
    """

    products: int
    attention: int
    parameters: int

    @property
    def forward_flops(self) -> int:
        """Of one image."""
        return 2 * self.products

    @property
    def update_flops(self) -> int:
        """Of one image, forwards and backwards."""
        return 3 * self.forward_flops


def unet(
    side: int,
    image_channels: int,
    channels: int,
    channel_mult: tuple[int, ...],
    num_blocks: int,
    attention_resolutions: tuple[int, ...] = (),
    attention_middle: bool = True,
    condition_features: int = 0,
    lanes: int = 1,
) -> UNetOperations:
    """Of the U-Net with these settings, see `networks.UNet`.

    Args:
      side: height and width of the images.
      image_channels: of the images.
      channels: at full resolution.
      channel_mult: multiplier of each resolution.
      num_blocks: encoder blocks a resolution.
      attention_resolutions: heights at which blocks attend.
      attention_middle: whether the decoder's first block attends anyway.
      condition_features: length of the embedding of the condition; 0 is an unconditional network.
      lanes: what the channels of convolutions are rounded up to, as hardware may that multiplies
        matrices in tiles; changes the products and not the parameters.
    """
    widths = [channels * mult for mult in channel_mult]
    width, levels = max(widths), len(widths)
    products = attention = parameters = 0

    def linear(inputs, outputs):
        nonlocal products, parameters
        products += inputs * outputs
        parameters += inputs * outputs

    def convolution(at, size, inputs, outputs):
        nonlocal products, parameters
        rounded = [-(-count // lanes) * lanes for count in (inputs, outputs)]
        products += at**2 * size**2 * rounded[0] * rounded[1]
        parameters += size**2 * inputs * outputs

    def block(at, inputs, outputs, attends, encoder):
        nonlocal products, attention, parameters
        if inputs != outputs:
            convolution(at, 1, inputs, outputs)
        # An encoder's block changes the channels first, a decoder's beside its residual branch.
        convolution(at, 3, outputs if encoder else inputs, outputs)
        linear(width, outputs)
        parameters += 1  # The embedding's gain.
        convolution(at, 3, outputs, outputs)
        if attends:
            convolution(at, 1, outputs, 3 * outputs)
            convolution(at, 1, outputs, outputs)
            products += 2 * at**4 * outputs
            attention += 2 * at**4 * outputs

    linear(widths[0], width)
    if condition_features:
        linear(condition_features, width)
        parameters += width  # What stands for no condition.
    # One channel of ones goes with the image.
    convolution(side, 3, image_channels + 1, widths[0])
    last, skips, at = widths[0], [widths[0]], side
    for level, outputs in enumerate(widths):
        if level:
            at //= 2
            block(at, last, last, False, True)
            skips.append(last)
        for _ in range(num_blocks):
            block(at, last, outputs, at in attention_resolutions, True)
            last = outputs
            skips.append(last)
    for level in reversed(range(levels)):
        if level == levels - 1:
            attends = attention_middle or at in attention_resolutions
            block(at, last, widths[level], attends, False)
            block(at, widths[level], widths[level], False, False)
        else:
            at *= 2
            block(at, last, last, False, False)
        for _ in range(num_blocks + 1):
            block(at, last + skips.pop(), widths[level], at in attention_resolutions, False)
            last = widths[level]
    convolution(side, 3, last, image_channels)
    parameters += 1  # The output's gain.
    return UNetOperations(products, attention, parameters)


class EMOperations(NamedTuple):
    """Of one iteration of EM.

    Attributes:
      products: multiplications with their additions.
      num_bytes: what the two products over all points read and write, float32.
    """

    products: int
    num_bytes: int


def em(num_points: int, dim: int, num_components: int, kind: str) -> EMOperations:
    """Of an iteration of `mixture.fit_em` for N points, D dimensions and K components.

    "diag" multiplies `[N, 1 + 2 D]` features with `[1 + 2 D, K]` coefficients to densities, and the
    features with `[N, K]` responsibilities to moments. "full" whitens all points for each
    component, `[K D, D]` with `[D, N]`, and sums `[K, D, N]` with itself to `[K, D, D]` moments;
    for each component come two inverses of a triangle by doubling, two products of `[D, D]` and a
    Cholesky factor.

    Raises:
      ValueError: another kind.
    """
    if kind == "diag":
        features = 1 + 2 * dim
        products = 2 * num_points * num_components * features
        moved = 2 * num_points * (features + num_components) + 2 * num_components * features
    elif kind == "full":
        padded = 1 << (dim - 1).bit_length()
        of_component = 2 * (padded**3 - padded) // 3 + 2 * dim**3 + dim**3 // 6
        products = 2 * num_points * num_components * dim**2 + num_components * of_component
        moved = num_points * dim + 3 * num_points * num_components * dim
        moved += 2 * num_components * dim**2
    else:
        raise ValueError(f"kind is {kind!r}; valid here are 'diag' and 'full'.")
    return EMOperations(products, 4 * moved)

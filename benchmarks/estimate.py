"""An estimate on paper: how long CIFAR-10 and ImageNet-64 train on 16 TPU v5e and on 8 H200.

    python benchmarks/estimate.py

Nothing is run. Hours are `images * FLOPs of an image / (devices * peak * utilisation)`, where the
FLOPs are three times those of a forward pass, counted by operations.py.

Runs    CIFAR-10 is configs/cifar_gmm.py, its updates times its batch. ImageNet-64 is the network of
        EDM2-S (192 channels, 1 2 3 4, 3 blocks, attention at 16 and 8), with a condition of 512
        features, for the 1024 * 2^20 images of NVlabs/edm2, train_edm2.py, preset edm2-img64-s.
Peaks   dense bfloat16 a chip, as published: TPU v5e 197 TFLOP/s (cloud.google.com/tpu/docs/v5e);
        H200 989 TFLOP/s, half of the 1,979 with sparsity of NVIDIA's data sheet of the H200 SXM.
Utilisation  assumed: 20 % and 45 %. No figure of this network on either is known. Published are
        those of language models: 46 to 67 % on v5e (MaxText, configs/v5e/README.md, 16 to 128 B
        parameters), 38 to 43 % on H100, whose matrix units the H200 has (Llama 3, arXiv
        2407.21783). Not in it: input, the sums of gradients, evaluation.
Most    of the peak that a TPU could reach if its matrix unit rounded all channels up to 128; a
        bound below which the assumptions have to stay.
"""

import dataclasses
import pathlib
import runpy
import sys

# A clone that is not installed works, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import operations

ROOT = pathlib.Path(__file__).resolve().parents[1]
UTILISATIONS = (0.20, 0.45)
LANES = 128


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices of a kind.

    Attributes:
      name: for the table.
      count: of devices.
      peak: dense bfloat16 FLOP/s of one.
      lanes: what it may round channels up to.
    """

    name: str
    count: int
    peak: float
    lanes: int = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
      name: for the table.
      network: the arguments of `operations.unet`.
      batch: images of an update.
      images: in all.
    """

    name: str
    network: dict
    batch: int
    images: int


MACHINES = (Machine("16 TPU v5e", 16, 197e12, LANES), Machine("8 H200", 8, 989e12))


def hours(images: int, flops: float, count: int, peak: float, utilisation: float) -> float:
    """Of so many images, each of so many FLOPs, on `count` devices of `peak` FLOP/s.

    Raises:
      ValueError: a utilisation that is not above 0 and at most 1.
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation is {utilisation}; valid is more than 0 and at most 1.")
    return images * flops / (count * peak * utilisation) / 3600


def cifar() -> Run:
    """The run of configs/cifar_gmm.py."""
    config = runpy.run_path(str(ROOT / "configs" / "cifar_gmm.py"))["get_config"]()
    group, batch = config.network, config.training.batch_size
    network = {
        "side": 32,
        "image_channels": 3,
        "channels": group.channels,
        "channel_mult": tuple(group.channel_mult),
        "num_blocks": group.num_blocks,
        "attention_resolutions": tuple(group.attention_resolutions),
        "attention_middle": group.attention_middle,
        "condition_features": config.conditioning.embedding_features,
    }
    return Run("CIFAR-10", network, batch, batch * config.training.num_steps)


def imagenet() -> Run:
    """EDM2-S on images of 64x64."""
    network = {
        "side": 64,
        "image_channels": 3,
        "channels": 192,
        "channel_mult": (1, 2, 3, 4),
        "num_blocks": 3,
        "attention_resolutions": (16, 8),
        "condition_features": 512,
    }
    return Run("ImageNet-64", network, 2048, 1024 << 20)


def main() -> None:
    """Prints a Markdown table."""
    columns = [f"hours at {100 * share:.0f} %" for share in UTILISATIONS]
    print(
        "| run | parameters | GFLOP an image, forwards | TFLOP an update | images | machine | "
        f"peak TFLOP/s | most | {' | '.join(columns)} |"
    )
    print("|" + "---|" * (8 + len(columns)))
    for run in (cifar(), imagenet()):
        count = operations.unet(**run.network)
        for machine in MACHINES:
            rounded = operations.unet(**run.network, lanes=machine.lanes)
            most = f"{100 * count.products / rounded.products:.0f} %" if machine.lanes > 1 else "-"
            taken = [
                hours(run.images, count.update_flops, machine.count, machine.peak, share)
                for share in UTILISATIONS
            ]
            print(
                f"| {run.name} | {count.parameters / 1e6:.1f} M | "
                f"{count.forward_flops / 1e9:.1f} | "
                f"{run.batch * count.update_flops / 1e12:.4g} | {run.images / 1e6:,.0f} M | "
                f"{machine.name} | {machine.count * machine.peak / 1e12:,.0f} | {most} | "
                f"{' | '.join(f'{one:.1f}' for one in taken)} |"
            )


if __name__ == "__main__":
    main()

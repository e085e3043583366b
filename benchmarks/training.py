"""Training and sampling beside EDM2 networks of PyTorch, in one run.

    pip install -e ".[benchmark]"
    python benchmarks/training.py [--networks small,large] [--rounds 5] [--peers ...]

small   8x8x1, batch 128: the network of configs/digits_gmm.py, 0.72 M parameters
large   32x32x3, batch 16: 64 channels, multipliers 1 2 2, 2 blocks, attention at 16 and 8, 7.1 M

A peer's network has the same resolutions, blocks and attention and, by its channels, about as many
parameters; each trains on the same shapes by the loss of EDM in float32, with Adam and two averages
of the parameters, without dropout. Images are sampled by 18
Heun steps (35 evaluations), 64 (small) or 4 (large) at once.

Every measurement is a process of its own, and peers take turns, round after round. A process
compiles, then takes the median of several updates or samplings. Ours has memory in huge pages, as
the command line asks for; a peer has them where its name says so. Cells are the median over rounds
and (min-max); ratios are how many times longer than ours of one device a core.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A clone that is not installed works, too.
sys.path.insert(0, str(ROOT))

CASES = {
    "small": {
        "shape": [8, 8, 1],
        "batch": 128,
        "updates": 8,
        "samples": 64,
        "peer_channels": 32,
        "network": {
            "channels": 32,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attention_resolutions": [4],
        },
    },
    "large": {
        "shape": [32, 32, 3],
        "batch": 16,
        "updates": 8,
        "samples": 4,
        "peer_channels": 64,
        "network": {
            "channels": 64,
            "channel_mult": [1, 2, 2],
            "num_blocks": 2,
            "attention_resolutions": [16, 8],
        },
    },
}
OURS = "gmm_diffusion"
ONE_DEVICE = "gmm_diffusion, 1 device"
PEERS = (
    OURS,
    ONE_DEVICE,
    "KarrasUnet, eager",
    "KarrasUnet, huge pages",
    "KarrasUnet, channels last",
    "KarrasUnet, compiled",
    "diffusers, eager",
)
STEPS, CALLS = 18, 5
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX, RHO = 0.5, 0.002, 80.0, 7


def ours(case: dict, num_devices: int):
    """`(train() -> updates made, sample(), number of parameters)`."""
    import jax

    jax.config.update("jax_num_cpu_devices", num_devices)
    from benchmarks import unconditional
    from gmm_diffusion import devices

    shape, steps, num = case["shape"], case["updates"], case["samples"]
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in case["network"].items()}
    net = unconditional.Case(shape[0], image_channels=shape[2], **settings)
    training = unconditional.Training(net, num_devices)
    batches = training.spread(unconditional.noise_batches(net, steps, case["batch"]))
    params = net.parameters()
    draw = unconditional.sampler(net, STEPS)
    program = devices.map_examples(lambda params, keys: draw(params, None, keys), num)
    keys = devices.example_keys(0, num)

    def train():
        training.call(batches)
        return steps

    return train, lambda: program(params, keys), net.count().parameters


def torch_network(case: dict, library: str):
    """The peer's U-Net as a module of `(x, c_noise [B])`."""
    import torch

    size, _, image_channels = case["shape"]
    network = case["network"]
    channels, mult = network["channels"], network["channel_mult"]
    if library == "KarrasUnet":
        from denoising_diffusion_pytorch import KarrasUnet

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                # It has two heads at least; these are as wide together as ours.
                self.net = KarrasUnet(
                    image_size=size, dim=channels, dim_max=channels * max(mult),
                    channels=image_channels, num_downsamples=len(mult) - 1,
                    num_blocks_per_stage=network["num_blocks"],
                    attn_res=tuple(network["attention_resolutions"]), dropout=0.0,
                    attn_dim_head=min(64, channels * max(mult) // 2),
                )  # fmt: skip

            def forward(self, x, c_noise):
                return self.net(x, time=c_noise)

        return Net()
    from diffusers import UNet2DModel

    attends = [size // 2**i in network["attention_resolutions"] for i in range(len(mult))]

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = UNet2DModel(
                sample_size=size, in_channels=image_channels, out_channels=image_channels,
                layers_per_block=network["num_blocks"],
                block_out_channels=[case["peer_channels"] * m for m in mult],
                down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
                up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
                norm_num_groups=8, attention_head_dim=None, time_embedding_type="fourier",
            )  # fmt: skip

        def forward(self, x, c_noise):
            return self.net(x, c_noise.exp()).sample

    return Net()


def torch_peer(case: dict, library: str, compiled: bool, channels_last: bool):
    """As `ours`."""
    import torch

    torch.manual_seed(0)
    net = torch_network(case, library)
    num_params = sum(p.numel() for p in net.parameters())
    shape = (case["shape"][2], *case["shape"][:2])
    batch, num = case["batch"], case["samples"]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    params = list(net.parameters())
    averages = [[p.detach().clone() for p in params] for _ in range(2)]
    optimizer = torch.optim.Adam(params, lr=1e-3, betas=(0.9, 0.99))
    called = torch.compile(net) if compiled else net

    def denoise(x, sigma):
        sigma = sigma.reshape(-1, 1, 1, 1)
        total = (sigma**2 + SIGMA_DATA**2).sqrt()
        out = called(x / total, sigma.flatten().log() / 4)
        return SIGMA_DATA**2 / total**2 * x + sigma * SIGMA_DATA / total * out

    x = torch.randn(batch, *shape).to(memory_format=layout)

    def train():
        net.train()
        sigma = (torch.randn(batch) * 1.2 - 1.2).exp()
        noise = torch.randn_like(x) * sigma.reshape(-1, 1, 1, 1)
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        loss = (weight * (denoise(x + noise, sigma) - x).square().mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average in averages:
                torch._foreach_lerp_(average, params, 0.01)
        loss.item()
        return 1

    ramp = torch.arange(STEPS) / (STEPS - 1)
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    grid = torch.cat([(high + ramp * (low - high)) ** RHO, torch.zeros(1)])

    @torch.no_grad()
    def sample():
        net.eval()
        x = (torch.randn(num, *shape) * grid[0]).to(memory_format=layout)
        for i in range(STEPS):
            slope = (x - denoise(x, grid[i].expand(num))) / grid[i]
            following = x + (grid[i + 1] - grid[i]) * slope
            if i + 1 < STEPS:
                end = grid[i + 1].expand(num)
                slope = (slope + (following - denoise(following, end)) / grid[i + 1]) / 2
                following = x + (grid[i + 1] - grid[i]) * slope
            x = following
        return x

    return train, sample, num_params


def worker(name: str, case: dict) -> dict:
    """One peer on one network, in this process: ms an update and a sampled image, parameters."""
    if name.startswith(OURS):
        parts = ours(case, 1 if name == ONE_DEVICE else len(os.sched_getaffinity(0)))
    else:
        library, how = name.split(", ")
        parts = torch_peer(case, library, how == "compiled", how == "channels last")
    train, sample, num_params = parts
    result = {"parameters": num_params}
    for what, call in (("training", train), ("sampling", lambda: (sample(), case["samples"])[1])):
        begin = time.perf_counter()
        call()
        result[f"first {what}"] = time.perf_counter() - begin
        times = []
        for _ in range(CALLS):
            begin = time.perf_counter()
            num = call()
            times.append((time.perf_counter() - begin) / num)
        result[what] = statistics.median(times) * 1e3
    return result


def call(name: str, case: dict) -> dict | None:
    """`worker` in a process of its own; None where it fails."""
    command = [sys.executable, __file__, "--worker", json.dumps([name, case])]
    from gmm_diffusion import allocator

    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    environment = os.environ | {"PYTHONPATH": path}
    if name.startswith(OURS) or name.endswith("huge pages"):
        # As `python -m gmm_diffusion.main` does.
        environment = allocator.environment(environment) or environment
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        print(f"{name} failed: {result.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default="small,large", help="of small, large")
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(*json.loads(arguments.worker))))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| network | peer | parameters | update ms | ratio | image ms | ratio | first update s |")
    print("|---|---|---|---|---|---|---|---|")
    for network in arguments.networks.split(","):
        runs = {name: [] for name in arguments.peers}
        for _ in range(arguments.rounds):
            for name in arguments.peers:
                if (found := call(name, CASES[network])) is not None:
                    runs[name].append(found)
        base = runs[arguments.peers[0]]
        if not base:
            sys.exit(f"{arguments.peers[0]}, which all are compared with, cannot be measured.")
        for name, several in runs.items():
            if not several:
                continue
            cells = [network, name, f"{several[0]['parameters'] / 1e6:.2f} M"]
            for what in ("training", "sampling"):
                values = [r[what] for r in several]
                middle = statistics.median(values)
                cells.append(f"{middle:.1f} ({min(values):.1f}-{max(values):.1f})")
                cells.append(f"{middle / statistics.median(r[what] for r in base):.2f}x")
            cells.append(f"{statistics.median(r['first training'] for r in several):.1f}")
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()

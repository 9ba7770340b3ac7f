"""Least time that arithmetic and memory traffic allow each kernel, from sizes and published device figures alone.

    python -m climax_hpc.kernels.roofline

B batch · V variables · H × W grid · p patch edge · P = p·p · L = (H/p)·(W/p) patches · D embedding · N heads · K = D/N.
The measured share of these floors needs a GPU; nothing here is a measurement.
"""

from dataclasses import dataclass

from climax_hpc.kernels.devices import DEVICES, GPUS


@dataclass(frozen=True)
class Work:
    """Arithmetic and traffic of one operation; a multiplication and an addition are 2 FLOP."""

    flop: float
    bytes: float

    def floor_seconds(self, device: str) -> float:
        """max(FLOP / bfloat16 rate, bytes / bandwidth) on a device of the table."""
        published = DEVICES[device]
        return max(self.flop / published.bfloat16, self.bytes / published.bandwidth)


@dataclass(frozen=True)
class FrontEndSize:
    """Aggregation from pixels to the heads' outputs o, without the output projection."""

    name: str
    B: int
    V: int
    H: int
    W: int
    p: int
    D: int = 1024
    N: int = 16
    itemsize: int = 2

    @property
    def rows(self) -> int:
        return self.B * (self.H // self.p) * (self.W // self.p)

    @property
    def planes(self) -> int:
        return self.p * self.p + 1

    @property
    def image_bytes(self) -> float:
        return self.B * self.V * self.H * self.W * self.itemsize

    @property
    def output_bytes(self) -> float:
        return self.rows * (self.D * self.itemsize + 4 * self.N)

    @property
    def packed_bytes(self) -> float:
        """Pixels and availability planes, variables padded to whole blocks of 16."""
        return self.rows * -(-self.V // 16) * 16 * self.planes * self.itemsize

    def forward(self) -> Work:
        """2·V·Q·(N + D) FLOP a patch; image read, o and log-sum-exp written."""
        return Work(2 * self.V * self.planes * (self.N + self.D) * self.rows, self.image_bytes + self.output_bytes)

    def backward(self) -> Work:
        """Scores again, d-weights and dM (2·V·Q·D each), dS; image, o and do read, dM written. Without dx."""
        flop = 2 * self.V * self.planes * (2 * self.N + 2 * self.D) * self.rows
        maps = 4 * self.V * self.planes * (self.N + self.D)
        return Work(flop, self.image_bytes + 2 * self.output_bytes + maps)

    def textbook_forward(self) -> Work:
        """4·V·D² FLOP a patch for keys and values; tokens, keys and values each written and read."""
        tokens = 6 * self.rows * self.V * self.D * self.itemsize
        flop = self.rows * self.V * (4 * self.D**2 + 2 * (self.planes + 2) * self.D)
        return Work(flop, self.image_bytes + self.output_bytes + tokens)

    def cache_bytes(self, row_tile: int = 128) -> float:
        """What the forward programs read from the second-level cache: each head all pixels, each row tile all maps."""
        maps = self.packed_bytes / self.rows * self.D
        return self.N * self.packed_bytes + self.rows / row_tile * maps


def verification_work(front: FrontEndSize) -> Work:
    """Sums of an evaluation: forecast, truth and climatology, float32, read once."""
    values = front.B * front.V * front.H * front.W
    return Work(20 * values, 3 * 4 * values)


def loss_work(front: FrontEndSize) -> tuple[Work, Work]:
    """Sums (head output and float32 target read), and gradient (both read again, gradient written)."""
    values = front.B * front.V * front.H * front.W
    read = values * (front.itemsize + 4)
    return Work(5 * values, read), Work(5 * values, read + values * front.itemsize)


def crps_bytes(cells: int, members: int, itemsize: int) -> tuple[int, int]:
    """Sums (members and float32 target read, a code of one byte written for each member), and gradient from codes."""
    return cells * (members * itemsize + 4 + members), cells * (members + members * itemsize)


def crps_work(front: FrontEndSize, members: int = 8) -> tuple[Work, Work]:
    """CRPS sums and gradient: 5 operations for each pair of members, 8 and 5 for each member."""
    cells = front.B * front.V * front.H * front.W
    sums, gradient = crps_bytes(cells, members, front.itemsize)
    return Work(cells * members * (5 * (members - 1) / 2 + 8), sums), Work(5 * cells * members, gradient)


CASES = (
    FrontEndSize("32×64, V=48, B=16", B=16, V=48, H=32, W=64, p=2),
    FrontEndSize("128×256, V=48, B=16", B=16, V=48, H=128, W=256, p=4),
    FrontEndSize("720×1440, V=100, B=1", B=1, V=100, H=720, W=1440, p=8),
)


def main() -> None:
    print("Floors in µs, bfloat16, D=1024, 16 heads (loss: target in float32; evaluation: all in float32)\n")
    print("| case | pass | GFLOP | MB | " + " | ".join(GPUS) + " |\n" + "|---" * (4 + len(GPUS)) + "|")
    for case in CASES:
        sums, gradient = loss_work(case)
        crps_sums, crps_gradient = crps_work(case)
        passes = {
            "forward": case.forward(),
            "backward": case.backward(),
            "textbook forward": case.textbook_forward(),
            "loss sums": sums,
            "loss gradient": gradient,
            "CRPS sums, 8 members": crps_sums,
            "CRPS gradient, 8 members": crps_gradient,
            "evaluation sums": verification_work(case),
        }
        for name, work in passes.items():
            floors = " | ".join(f"{1e6 * work.floor_seconds(device):.0f}" for device in GPUS)
            print(f"| {case.name} | {name} | {work.flop / 1e9:.1f} | {work.bytes / 1e6:.0f} | {floors} |")
    print("\n| case | packed pixels, MB | read from cache by the forward kernel, MB |\n|---|---|---|")
    for case in CASES:
        print(f"| {case.name} | {case.packed_bytes / 1e6:.0f} | {case.cache_bytes() / 1e6:.0f} |")


if __name__ == "__main__":
    main()

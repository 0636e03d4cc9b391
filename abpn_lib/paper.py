"""The paper's own numbers, as data with their place in the paper, and facts read elsewhere.

Z. Du, J. Liu, J. Tang, G. Wu, "Anchor-based Plain Net for Mobile Image Super-Resolution", CVPR
Workshops 2021, arXiv 2105.09750. Nothing here was measured by this project: a page that shows one of
these values marks it as quoted. `ELSEWHERE` holds what does not come from the paper at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "CHALLENGE", "COMPARED", "ELSEWHERE", "FIGURE3", "META_NODES", "QUOTED", "TABLE2", "Fact", "Quoted", "quoted",
    "score",
]

META_NODES: Mapping[str, str] = MappingProxyType({
    "split": "channel split", "concat": "channel concat", "add": "addition of two tensors",
    "multiply": "multiplication of two tensors", "max-pool": "global max pooling",
    "average-pool": "global average pooling", "conv3": "3×3 convolution", "conv1": "1×1 convolution",
    "relu": "ReLU", "leaky-relu": "leaky ReLU", "nearest": "nearest-neighbour resize", "bilinear": "bilinear resize",
})
"""Table 1's rows: id -> name, in the paper's order."""

TABLE2: Mapping[str, str] = MappingProxyType({
    "baseline": "baseline", "nearest": "baseline + nearest", "bilinear": "baseline + bilinear",
    "fsrl": "baseline + FSRL", "abpn": "baseline + ABRL",
})
"""Table 2's rows: network -> name, in the paper's order."""

COMPARED: Mapping[str, str] = MappingProxyType({"fsrcnn": "FSRCNN", "abpn": "ABPN"})
"""Table 3's rows."""

CHALLENGE: Mapping[str, str] = MappingProxyType({
    "abpn": "ABPN", "deepernewbie": "deepernewbie", "jeremieg": "JeremieG", "richlaji": "richlaji",
    "xindongzhang": "xindongzhang",
})
"""Table 4's rows, in the paper's order."""

FIGURE3: Mapping[str, str] = MappingProxyType({"bicubic": "bicubic", "fsrcnn": "FSRCNN INT8", "abpn": "ABPN INT8"})
"""The methods of Figure 3."""


@dataclass(frozen=True)
class Quoted:
    """One value or statement of the paper.

    `text` holds the digits as the paper prints them, or, where `value` is None, a statement in our
    own words. `unit` is "ms", "dB", "K", "", ...
    """

    id: str
    where: str
    value: float | None
    unit: str
    text: str

    @property
    def number(self) -> float:
        """The value.

        Raises
        ------
        ValueError
            If this is a statement without one.
        """
        if self.value is None:
            raise ValueError(f"{self.id} is a statement, not a number")
        return self.value

    @property
    def shown(self) -> str:
        """The digits with their unit, or the statement."""
        return f"{self.text} {self.unit}".strip()


@dataclass(frozen=True)
class Fact:
    """Something worth knowing beside the paper that the paper does not say; `source` says who does."""

    id: str
    text: str
    source: str
    value: float | None = None
    unit: str = ""


def quoted(id: str) -> Quoted:
    """One entry of `QUOTED`.

    Raises
    ------
    KeyError
        If the paper has no value of that id here.
    """
    if id not in QUOTED:
        raise KeyError(f"no quoted value is called {id!r}; ids look like T2.abpn.int8, F3.img004.abpn.psnr or S13.none")
    return QUOTED[id]


def score(psnr: float, milliseconds: float) -> float:
    """The challenge score that Table 4's rows follow: 2^(2 · PSNR − 48) / latency (PSNR in dB, latency in ms)."""
    return 2.0 ** (2 * psnr - 48) / milliseconds


def _numbers(
    table: str, where: str, rows: Mapping[str, str], columns: Mapping[str, tuple[str, str]], printed: str,
) -> Iterator[Quoted]:
    """The cells of one table; `columns` maps an id to (heading, unit), `printed` has one line per row."""
    for (row, name), line in zip(rows.items(), printed.strip().splitlines(), strict=True):
        for (column, (heading, unit)), digits in zip(columns.items(), line.split(), strict=True):
            # Table 1 has a single column, which its ids leave out.
            id = f"{table}.{row}.{column}" if column else f"{table}.{row}"
            yield Quoted(id, f"{where}, {name}, {heading}", float(digits), unit, digits)


def _tables() -> Iterator[Quoted]:
    yield from _numbers(
        "T1", "Table 1", META_NODES, {"": ("time", "ms")},
        "9.8\n10.4\n5.2\n9.6\n20.0\n13.1\n4.3\n2.9\n1.3\n3.6\n57.6\n75.4",
    )
    yield from _numbers(
        "T2", "Table 2", TABLE2,
        {"params": ("parameters", "K"), "fp32": ("FP32", "dB"), "int8": ("INT8", "dB"), "ms": ("inference time", "ms")},
        """
        42.54 30.21 28.28 26
        42.54 30.22 30.09 57.6
        42.54 30.24 30.11 74.9
        42.54 30.27 29.49 35.9
        42.54 30.22 30.09 36.8
        """,
    )
    yield from _numbers(
        "T3", "Table 3", COMPARED,
        {"cpu": ("CPU", "ms"), "gpu": ("GPU", "ms"), "nnapi": ("NNAPI", "ms"), "psnr": ("PSNR", "dB")},
        """
        149.2 44.3 21.7 28.1
        235.0 69.8 39.2 30.15
        """,
    )
    yield from _numbers(
        "T4", "Table 4", CHALLENGE,
        {"psnr": ("PSNR", "dB"), "ssim": ("SSIM", ""), "ms": ("NPU run time", "ms"), "score": ("score", "")},
        """
        29.87 0.8686 36.89 92.72
        29.58 0.86 44.85 51.02
        29.41 0.8537 38.32 47.18
        29.52 0.8607 62.25 33.82
        28.82 0.8428 76.61 10.41
        """,
    )
    crops = {
        "img004": "15.21 0.3223\n15.14 0.3374\n16.02 0.5347",
        "img091": "19.63 0.3761\n18.52 0.4268\n20.85 0.5105",
    }
    for image, printed in crops.items():
        columns = {"psnr": ("PSNR of the crop shown", "dB"), "ssim": ("SSIM of the crop shown", "")}
        yield from _numbers(f"F3.{image}", f"Figure 3, Urban100 {image}", FIGURE3, columns, printed)


_STATEMENTS: Mapping[str, tuple[str, str]] = {
    "S1": ("section 3.1", "An element-wise addition is slower than a 3×3 convolution."),
    "S2": (
        "section 3.1",
        "A 3×3 convolution has nine times the parameters and operations of a 1×1, but takes about as long.",
    ),
    "S3": ("section 3.1", "ReLU is much faster than leaky ReLU, which gains at most 0.03 dB."),
    "S4": ("section 3.1", "Resize nodes are too slow for real time."),
    "S5": ("section 3.2", "Batch normalisation costs about 0.2 dB."),
    "S6": (
        "section 3.2",
        "The concatenation and addition of ABRL together cost about a quarter of the nearest-neighbour node.",
    ),
    "S7": ("section 3.2", "Nine channel concatenations in LR space cost about as much as one in HR space."),
    "S8": ("section 3.2", "After INT8 quantisation ABRL beats FSRL by up to 0.6 dB."),
    "S9": ("section 3.2", "Since its branches run in parallel, ABRL takes no longer than FSRL."),
    "S10": ("section 3.2", "For an integer scale, ABRL is nearest-neighbour interpolation: the same bits."),
    "S11": ("section 3.3", "With fewer than five conv-ReLU pairs the run time stays as it is."),
    "S12": ("sections 3.3 and 4.5", "Without the clip node the full-integer model falls below 20 dB."),
    "S13": (
        "section 4.2",
        "INT8 costs 1.93 dB without residual learning, 0.78 dB with FSRL and 0.13 dB with image-space residuals.",
    ),
    "S14": ("section 4.2", "In FP32, FSRL leads by 0.03 dB and the other networks are level."),
    "S15": ("section 4.3", "QAT gains 0.06 dB, which leaves the INT8 model 0.07 dB below FP32."),
    "S16": ("abstract", "ABPN in INT8 beats FSRCNN in INT8 by nearly 2 dB."),
    "S17": ("section 1", "The network makes 27 frames of 1080p a second at ×3."),
    "S18": ("section 2.3", "Full-integer inference is up to three times faster than float, and four times smaller."),
    "S19": (
        "section 3.3",
        "The network is a convolution and ReLU, five conv-ReLU pairs, a transition convolution, the anchor addition, "
        "pixel shuffle and clip; at 28 kernels it has 42.54 K parameters.",
    ),
    "S20": (
        "section 4.1",
        "Training: batches of sixteen 64×64 LR RGB patches of DIV2K, flipped and rotated; L1 loss; Adam "
        "(0.9, 0.999, 1e-8) at 1e-3, halved every 200 of 1000 epochs; He initialisation; PSNR in RGB.",
    ),
    "S21": ("section 4.3", "QAT starts at a learning rate of 1e-4, halved every 50 of 200 epochs."),
}

# id -> (value, unit, as printed): the numbers inside the statements. Their place is the statement's.
_IN_TEXT: Mapping[str, tuple[float, str, str]] = {
    "S2.operations": (9, "times", "nine"),
    "S3.gain": (0.03, "dB", "0.03"),
    "S4.realtime": (24, "frames/s", "twenty-four"),
    "S5.loss": (0.2, "dB", "0.2"),
    "S6.fraction": (0.25, "of the nearest node", "nearly a quarter"),
    "S6.abrl": (15.6, "ms", "15.6"),
    "S6.fsrl": (5.2, "ms", "5.2"),
    "S8.gain": (0.6, "dB", "0.6"),
    "S11.pairs": (5, "conv-ReLU pairs", "5"),
    "S12.limit": (20, "dB", "20"),
    "S13.none": (-1.93, "dB", "-1.93"),
    "S13.fsrl": (-0.78, "dB", "-0.78"),
    "S13.image": (-0.13, "dB", "-0.13"),
    "S14.lead": (0.03, "dB", "+0.03"),
    "S15.gain": (0.06, "dB", "0.06"),
    "S15.loss": (0.07, "dB", "0.07"),
    "S16.gain": (2, "dB", "nearly 2"),
    "S17.frames": (27, "frames/s", "twenty-seven"),
    "S18.speed": (3, "times faster", "three"),
    "S18.memory": (4, "times smaller", "4"),
    "S19.pairs": (5, "conv-ReLU pairs", "5"),
    "S19.kernels": (28, "kernels", "28"),
    "S19.params": (42.54, "K", "42.54"),
    "S20.batch": (16, "patches", "16"),
    "S20.patch": (64, "LR pixels a side", "64"),
    "S20.rate": (1e-3, "learning rate", "1e-3"),
    "S20.halving": (200, "epochs", "200"),
    "S20.epochs": (1000, "epochs", "1000"),
    "S20.beta1": (0.9, "", "0.9"),
    "S20.beta2": (0.999, "", "0.999"),
    "S20.epsilon": (1e-8, "", "1e-8"),
    "S21.rate": (1e-4, "learning rate", "1e-4"),
    "S21.halving": (50, "epochs", "50"),
    "S21.epochs": (200, "epochs", "200"),
}

# Numbers of a statement that stand elsewhere than the statement itself.
_ELSEWHERE_IN_PAPER: Mapping[str, str] = {
    "S4.realtime": "section 1", "S12.limit": "section 4.5", "S19.kernels": "section 4.1", "S19.params": "Table 2",
}


def _statements() -> Iterator[Quoted]:
    for id, (where, text) in _STATEMENTS.items():
        yield Quoted(id, where, None, "", text)
    for id, (value, unit, printed) in _IN_TEXT.items():
        yield Quoted(id, _ELSEWHERE_IN_PAPER.get(id, _STATEMENTS[id.split(".")[0]][0]), value, unit, printed)


QUOTED: Mapping[str, Quoted] = MappingProxyType({q.id: q for source in (_tables(), _statements()) for q in source})
"""Every quoted value by its id: T1.<node>, T2.<network>.<column>, ..., S1 to S21, and S13.none for a number in S13."""

_CODE = "authors' published code, NJU-Jet/SR_Mobile_Quantization"

ELSEWHERE: Mapping[str, Fact] = MappingProxyType({fact.id: fact for fact in (
    Fact(
        "parameters-text", "The paper's wording, with all five pairs at 28 channels, gives 43,035 parameters.",
        "counted from section 3.3", 43_035, "parameters",
    ),
    Fact(
        "parameters-code",
        "The code has one and four convolutions of 28 channels, a fifth pair 28→27, then 27→27: 42,539 parameters, "
        "which is the paper's 42.54 K.",
        _CODE, 42_539, "parameters",
    ),
    Fact(
        "epochs",
        "The code trains for 600 epochs of 1000 batches, not 1000 epochs, and halves at 120, 240, 360 and 480.",
        _CODE, 600, "epochs",
    ),
    Fact("initialisation", "The code starts from Glorot initialisation, not He.", _CODE),
    Fact(
        "selection", "The best of all epochs on DIV2K 0801-0900 is kept; the published one is epoch 575.",
        _CODE, 30.2213, "dB",
    ),
    Fact("qat-epochs", "QAT runs for 220 epochs in the code, not 200.", _CODE, 220, "epochs"),
    Fact("qat-rate", "The README starts QAT at a learning rate of 1e-3, not 1e-4.", _CODE, 1e-3, "learning rate"),
    Fact("protocol", "PSNR is taken in RGB, on rounded values, with one border pixel cropped.", _CODE, 1, "pixel"),
    Fact(
        "raw-reading",
        "The INT8 evaluation reads the raw uint8 output and ignores its scale; this is the published QAT model's.",
        _CODE, 0.99869, "output scale",
    ),
    Fact(
        "time-models",
        "The published models named _time were calibrated on a single crop: they serve for timing only. "
        "This is the input scale of the PTQ one.",
        _CODE, 0.97647, "input scale",
    ),
    Fact(
        "score-formula", "Table 4's scores follow 2^(2·PSNR − 48) / ms to the digits printed.",
        "computed from Table 4's own columns",
    ),
    Fact(
        "table2-latency",
        "Table 2's time for + nearest equals Table 1's nearest node alone (57.6 ms); + bilinear has 74.9 against 75.4.",
        "Tables 1 and 2 side by side",
    ),
    Fact(
        "rerun-fp32", "An independent rerun of the authors' code, FP32, DIV2K validation, no border crop.",
        "ECNUSR/PureConvSR-AIM2022", 30.099, "dB",
    ),
    Fact("rerun-int8", "The same rerun in INT8.", "ECNUSR/PureConvSR-AIM2022", 30.057, "dB"),
    Fact(
        "rerun-text-int8", "Another rerun, of the network as the paper words it, in INT8.",
        "A-Mulvihill/TCD-Computer-Vision-Project-2023", 29.98, "dB",
    ),
    Fact(
        "fsrcnn",
        "The paper does not specify its FSRCNN. 28.1 dB in INT8 is about bicubic's level: quantisation broke it.",
        "this project's reading of Table 3", 28.1, "dB",
    ),
)})
"""What a reader who rebuilds the network meets at once, and the paper does not say: id -> fact with its source."""

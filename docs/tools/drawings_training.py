"""Drawings of training: order of samples, aggregation, checkpoints, regions, projections, jobs."""

from svg import Drawing, field


def sample_order() -> Drawing:
    """Global batches, and who takes what."""
    d = Drawing(940, 330, "Every step has the same micro-batches whatever the number of ranks")
    sources = ("ABAC", "CABA", "BACA")
    colour = {"A": "blue", "B": "teal", "C": "amber"}
    for step, names in enumerate(sources):
        y = 52 + 58 * step
        d.text(70, y + 26, f"step {step}", "bold")
        for m, name in enumerate(names):
            d.rect(120 + 108 * m, y, 98, 42, colour[name])
            d.cells(130 + 108 * m, y + 13, 1, 4, 16, "box")
            d.text(208 + 108 * m, y + 27, name, "small bold")
    d.text(332, 32, "global batch: G = 4 micro-batches of g = 4 samples, one source each", "small muted")
    for m in range(4):
        d.text(169 + 108 * m, 248, f"micro-batch {m}", "small muted")
    d.text(738, 32, "who computes it", "small muted")
    for k, (ranks, text) in enumerate(((1, "1 rank"), (2, "2 ranks"), (4, "4 ranks"))):
        y = 60 + 58 * k
        d.text(618, y + 20, text, "small", "start")
        for m in range(4):
            style = ("grey", "red", "blue", "teal")[m % ranks]
            d.rect(690 + 58 * m, y, 52, 30, style)
            d.text(716 + 58 * m, y + 20, f"rank {m % ranks}", "small")
    d.text(470, 288, "sources, start times and lead times are a pure function of (seed, step)", "bold")
    d.text(470, 310, "so one process and 64 GPUs see the same batches, and resuming needs only the step", "small muted")
    return d


def aggregation() -> Drawing:
    """Textbook tokens against absorbed maps."""
    d = Drawing(940, 380, "Textbook: a token per variable; absorbed: maps lead straight from pixels to one token")
    for row, (name, text) in enumerate((("textbook", "V tokens a patch"), ("absorbed", "no token per variable"))):
        y = 26 + 180 * row
        d.text(24, y + 20, name, "bold", "start")
        d.text(24, y + 40, text, "small muted", "start")
        for n in range(4):
            d.cells(190 + 12 * n, y + 46 - 12 * n, 4, 4, 17, field(0.8 * n + row))
        d.text(240, y + 142, "V variables of a patch", "small muted")
    y = 26
    for n in range(4):
        d.rect(400, y + 14 + 26 * n, 150, 18, "grey", 4)
    d.text(475, y + 142, "V tokens of D numbers", "small muted")
    d.arrow([(304, y + 62), (392, y + 62)])
    d.text(348, y + 50, "E x + c", "mono")
    d.arrow([(558, y + 62), (694, y + 62)])
    d.text(626, y + 50, "attention", "mono")
    y = 206
    d.box(400, y + 12, 150, 42, ("S = (Wkᵀ q)ᵀ E",), "amber")
    d.box(400, y + 68, 150, 42, ("M = Wv E",), "amber")
    d.text(475, y + 142, "small maps, once per step", "small muted")
    d.arrow([(304, y + 62), (392, y + 62)])
    d.text(348, y + 50, "x", "mono")
    d.arrow([(558, y + 62), (694, y + 62)])
    d.text(626, y + 50, "softmax(S x) M x", "mono")
    for y in (26, 206):
        d.rect(704, y + 53, 96, 18, "teal", 4)
        d.text(752, y + 92, "one token", "small muted")
    d.text(860, 192, "the same", "bold")
    d.text(860, 212, "to 1e-10", "small muted")
    d.arrow([(808, 88), (860, 88), (860, 172)])
    d.arrow([(808, 268), (860, 268), (860, 224)])
    return d


def checkpoint() -> Drawing:
    """How a checkpoint appears."""
    d = Drawing(940, 236, "Write aside, hash, flush, rename, and only then name it latest")
    steps = (("write", "all ranks, into", ".step_1000.partial"), ("hash, flush", "SHA256SUMS.json,", "fsync"),
             ("agree", "every rank has", "written its part"), ("rename", "step_1000", "appears at once"),
             ("latest", "names it,", "by a rename too"))  # fmt: skip
    for n, lines in enumerate(steps):
        d.box(20 + 186 * n, 34, 150, 84, lines, "amber" if n > 2 else "teal", "small")
        if n < 4:
            d.arrow([(172 + 186 * n, 76), (204 + 186 * n, 76)])
    d.line([(20, 150), (540, 150)], "line")
    d.line([(578, 150), (914, 150)], "line")
    d.text(280, 174, "killed here: the previous checkpoint is untouched", "small")
    d.text(746, 174, "killed here: the new one is complete", "small")
    d.text(
        470,
        212,
        "loading compares every sha256 first; a damaged checkpoint is refused",
        "small muted",
    )
    return d


def regional() -> Drawing:
    """Patches of the globe that a region touches."""
    d = Drawing(940, 310, "A regional model sees the whole global patches that touch its region")
    size, top, left = 30, 34, 30
    inside = {(r, c) for r in (1, 2, 3) for c in (9, 10, 11, 12)}
    d.cells(left, top, 8, 16, size, lambda r, c: "teal" if (r, c) in inside else "grey")
    d.rect(left + 9 * size + 8, top + size + 8, 4 * size - 15, 3 * size - 22, "line", 2)
    d.text(left + 8 * size, top + 8 * size + 24, "the 8 × 16 patches of the globe", "small muted")
    for n, (style, text) in enumerate((
        ("teal", "patches that the network sees: 12 of 128"),
        ("grey", "patches that are never tokenised"),
    )):  # fmt: skip
        d.rect(560, 66 + 36 * n, 22, 22, style, 3)
        d.text(594, 82 + 36 * n, text, "small", "start")
    d.rect(560, 140, 22, 16, "line", 2)
    d.text(594, 153, "the region: only its cells count in loss and scores", "small", "start")
    d.text(560, 204, "Every token and its position is one of the global", "", "start")
    d.text(560, 226, "model's, so fine-tuning continues without", "", "start")
    d.text(560, 248, "interpolation.", "", "start")
    return d


def projection() -> Drawing:
    """Ten years of forcings to the maps of the last."""
    d = Drawing(940, 300, "Ten years of forcings, an encoder for each, attention over the years, maps of the last year")
    for n in range(4):
        y = 26 + 58 * n
        d.text(78, y + 28, ("2015", "2016", "…", "2024")[n], "small bold")
        if n == 2:
            continue
        for c, name in enumerate(("CO2", "CH4", "SO2", "BC")):
            style = ("blue", "teal")[c] if c < 2 else field(c + 0.4 * n)
            d.cells(110 + 52 * c, y + 6, 4, 5, 8, style)
            if n == 0:
                d.text(130 + 52 * c, y + 2, name, "small muted")
        d.arrow([(322, y + 22), (366, y + 22)])
        d.box(370, y, 130, 44, ("encoder",), "teal")
        d.line([(502, y + 22), (540, y + 22), (540, 120)])
    d.arrow([(540, 120), (570, 120)])
    d.box(572, 92, 130, 56, ("attention", "over the years"), "teal", "small")
    d.arrow([(704, 120), (732, 120)])
    for n, name in enumerate(("temperature", "diurnal range", "precipitation", "90th percentile")):
        d.cells(742, 24 + 56 * n, 4, 6, 10, field(1.1 * n))
        d.text(812, 48 + 56 * n, name, "small", "start")
    d.text(206, 282, "emissions of ten years", "small muted")
    d.text(435, 282, "the same weights for every year", "small muted")
    d.text(820, 282, "maps of the last year", "small muted")
    return d


def requeue() -> Drawing:
    """A run over three jobs."""
    d = Drawing(940, 240, "A run over three jobs: warning, checkpoint, exit 75, requeue, resume")
    for n, (left, width, last) in enumerate(((90, 220, False), (370, 220, False), (650, 140, True))):
        d.text(left, 44, f"job {n + 1}", "bold", "start")
        d.rect(left, 58, width, 44, "teal")
        d.text(left + width / 2, 86, "training", "small")
        for share in (0.2, 0.75):
            d.line([(left + share * width, 58), (left + share * width, 102)], "line dash")
        end = left + width
        if last:
            d.text(end + 14, 86, "finished: exit 0", "bold", "start")
        else:
            d.rect(end - 36, 58, 36, 44, "amber")
            d.arrow([(end - 36, 150), (end - 36, 106)])
            d.text(end - 36, 168, "USR1 before the limit", "small")
            d.text(end - 36, 186, "checkpoint, exit 75", "small")
            d.arrow([(end + 2, 80), (end + 58, 80)], "queue")
    d.text(
        90,
        222,
        "dashed: other checkpoints; a killed job resumes from the newest, to the same bits",
        "small muted",
        "start",
    )
    return d

"""Drawings of what happens to data: the chain, packing, shards, loading."""

from math import exp

from svg import Drawing, field


def chain() -> Drawing:
    """The whole chain, verb by verb."""
    d = Drawing(940, 216, "From raw CMIP6 to shards, a pretrained model, a fine-tuned model and scores")
    x = tuple(20 + 195 * n for n in range(5))
    names = (("raw CMIP6", "many grids, calendars"), ("shards", "one grid, checksums"), ("pretrained", "many sources"),
             ("fine-tuned", "your question"), ("scores", "with intervals"))  # fmt: skip
    for left, (name, text) in zip(x, names, strict=True):
        d.rect(left, 30, 120, 112)
        d.text(left + 60, 166, name, "bold")
        d.text(left + 60, 186, text, "small muted")
    for left, verb in zip(x, ("pack", "pretrain", "finetune", "evaluate"), strict=False):
        d.arrow([(left + 122, 86), (left + 193, 86)])
        d.text(left + 157, 74, verb, "mono")
    for n, (rows, size) in enumerate(((3, 11), (4, 8), (5, 7))):
        d.cells(30 + 34 * n, 46 + 24 * n, rows, rows, size, field(n))
    for n in range(4):
        d.cells(227 + 8 * n, 62 - 6 * n, 6, 8, 9, field(0.4 * n))
    for left, styles in ((410, ("grey",) * 4), (605, ("teal", "grey", "grey", "teal"))):
        for n, style in enumerate(styles):
            d.rect(left + 18, 44 + 23 * n, 84, 17, style, 4)
    for style, height in (("grey", 2.4), ("line dash", 2.0), ("line", 1.2)):
        points = [(816 + 1.9 * t, 126 - 60 * (1 - exp(-t / 20)) * height / 2) for t in range(0, 49, 3)]
        d.line(points, "line" if style == "grey" else style)
    d.line([(814, 44), (814, 128), (908, 128)])
    return d


def data_flow() -> Drawing:
    """Steps and their packages."""
    d = Drawing(940, 420, "Data flow: pack, load, aggregate, train, save, predict, evaluate, report")
    rows = (
        (("raw files", "NetCDF, zarr, rda"), ("pack", "check, regrid, scale"), ("shards", "HDF5, manifest"),
         ("sampler", "which samples"), ("batches", "float32 on the device")),
        (("checkpoint", "safetensors"), ("optimise", "AdamW, ZeRO 0–3"), ("loss", "area-weighted"),
         ("blocks, head", "vision transformer"), ("aggregate", "one token per patch")),
        (("predict", "CF NetCDF, zarr"), ("evaluate", "RMSE, ACC, intervals"), ("report", "one HTML page")),
    )  # fmt: skip
    packages = (
        ("", "data_prep", "shards", "data", "data"),
        ("checkpoint", "training", "kernels, training", "model", "kernels, model"),
        ("inference", "evaluation", "report"),
    )
    for r, boxes in enumerate(rows):
        for c, (name, text) in enumerate(boxes):
            stored = name in ("raw files", "shards", "checkpoint")
            d.box(24 + 186 * c, 28 + 130 * r, 146, 62, (name, text), "amber" if stored else "teal", "small")
            d.text(97 + 186 * c, 108 + 130 * r, packages[r][c], "mono muted")
            if c + 1 < len(boxes):
                left, y = 170 + 186 * c, 59 + 130 * r
                d.arrow([(left + 40, y), (left + 2, y)] if r == 1 else [(left + 2, y), (left + 38, y)])
    d.arrow([(841, 116), (841, 156)])
    d.arrow([(97, 246), (97, 286)])
    d.line([(469, 114), (469, 138), (562, 138), (562, 270), (283, 270)], "line dash")
    d.arrow([(283, 270), (283, 286)], style="line dash")
    d.text(574, 274, "the held-out period", "small muted", "start")
    d.rect(640, 330, 16, 16, "amber")
    d.text(664, 343, "files on disk", "small", "start")
    d.rect(640, 356, 16, 16, "teal")
    d.text(664, 369, "a step, with its package below", "small", "start")
    return d


def loading() -> Drawing:
    """From the sampler to the device."""
    d = Drawing(940, 250, "Threads fill a ring of buffers with verified chunks; the device maps them to batches")
    d.box(20, 80, 130, 64, ("sampler", "seed, step"), "teal", "small")
    d.box(200, 30, 150, 56, ("thread", "preadv, xxh3"), "teal", "small")
    d.box(200, 138, 150, 56, ("thread", "preadv, xxh3"), "teal", "small")
    for n in range(3):
        d.rect(430, 44 + 46 * n, 140, 36, ("amber", "amber", "box")[n])
        d.text(500, 67 + 46 * n, ("full", "being read", "free")[n], "small")
    d.text(500, 210, "ring of prefetch + 1 buffers", "small muted")
    d.box(640, 80, 120, 64, ("device", "float16 as stored"), "teal", "small")
    d.box(810, 80, 112, 64, ("Batch", "float32"), "teal", "small")
    for y in (58, 166):
        d.arrow([(152, 112), (176, 112), (176, y), (198, y)])
        d.arrow([(352, y), (390, y), (390, 112), (428, 112)])
    d.arrow([(572, 112), (638, 112)])
    d.arrow([(762, 112), (808, 112)])
    d.text(275, 228, "shards on disk", "small muted")
    d.text(866, 168, "units, crop,", "small muted")
    d.text(866, 184, "augmentation", "small muted")
    return d


def shard() -> Drawing:
    """A data set and one of its files."""
    d = Drawing(940, 330, "A data set: manifest, shards, climatology, static fields; one chunk per time step")
    d.text(24, 34, "data set", "bold", "start")
    d.box(24, 48, 190, 44, ("manifest.json", "hashes of every file"), "amber", "small")
    for n, name in enumerate(("2001", "2002", "2003")):
        d.rect(24, 106 + 40 * n, 190, 32, "blue")
        d.text(119, 126 + 40 * n, f"…_{name}010100_….h5", "mono")
    for n, name in enumerate(("climatology", "static")):
        d.rect(24, 226 + 40 * n, 190, 32, "teal")
        d.text(119, 246 + 40 * n, f"{name}.h5", "mono")
    d.arrow([(216, 122), (290, 122)])
    d.rect(300, 48, 616, 248)
    d.text(318, 74, "one shard: one source, one contiguous segment of time", "bold", "start")
    d.text(318, 106, "/fields", "mono", "start")
    for t in range(6):
        left = 400 + 82 * t
        for c in range(3):
            d.cells(left + 6 * c, 104 - 6 * c, 4, 5, 11, field(0.5 * t + c))
        d.text(left + 32, 168, f"t{t}", "small muted")
        d.rect(left + 2, 182, 60, 20, "grey", 3)
        d.text(left + 32, 196, "xxh3", "small")
    d.text(318, 197, "/checksum", "mono", "start")
    d.text(318, 232, "/time  /channel  /mean  /std  /lat  /lon", "mono", "start")
    d.text(
        318,
        262,
        "one chunk (1, C, H, W) of float16 z-scores per time step",
        "small muted",
        "start",
    )
    d.text(318, 282, "the same inputs and settings give the same bytes, on any number of ranks", "small muted", "start")
    return d


def packing() -> Drawing:
    """The stages of pack, with the time axis of one source."""
    d = Drawing(940, 290, "Catalogue, check, align, first pass, second pass, manifest")
    steps = (("catalogue", "files → sources"), ("check", "units, axes"), ("align", "common times"),
             ("first pass", "regrid, statistics"), ("second pass", "scale, write"),
             ("manifest", "written last"))  # fmt: skip
    for n, lines in enumerate(steps):
        d.box(16 + 154 * n, 26, 128, 60, lines, "amber" if n == 5 else "teal", "small")
        if n < 5:
            d.arrow([(145 + 154 * n, 56), (168 + 154 * n, 56)])
    for row, (name, gone) in enumerate((("tas", ()), ("zg", (9, 10)), ("ua", (10,)))):
        d.text(110, 137 + 26 * row, name, "mono", "end")
        d.cells(124, 122 + 26 * row, 1, 24, 20, lambda _r, c, gone=gone: "red" if c in gone else "blue")  # type: ignore[misc]
    d.text(110, 229, "segments", "bold", "end")
    d.rect(124, 212, 180, 24, "teal", 4)
    d.rect(344, 212, 260, 24, "teal", 4)
    d.text(214, 229, "1", "small bold")
    d.text(474, 229, "2", "small bold")
    d.text(324, 268, "missing time steps split a source: nothing is padded, no sample crosses a gap", "small muted")
    d.box(690, 128, 220, 52, ("ranks", "take units as they become free"), "grey", "small")
    d.box(690, 192, 220, 52, ("killed?", "the same command resumes"), "grey", "small")
    return d

# The paper as one graph: data -> train -> quantise -> evaluate -> notebooks -> ledger -> site.
# `make book` asks for `book`. Training and what follows from it runs only when asked for by name, since
# its results are shipped with the library: `.venv/bin/snakemake --cores 2 train quantize evaluate`.
import os
import sys
import tomllib
from pathlib import Path

from abpn_lib import datasets, site

LIBRARY = Path("abpn_lib")
NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
NETWORKS = ["baseline", "nearest", "bilinear", "fsrl", "abpn", "fsrcnn", "fsrcnn-anchor"]
VERSION = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
WHEEL = f"_build/wheel/abpn_lib-{VERSION}-py3-none-any.whl"
PYTHON = sys.executable
ABPN = str(Path(sys.executable).with_name("abpn"))

# Everything in the package, as it goes into the wheel.
PACKAGE = sorted(
    str(path) for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
)


def needs(name):
    """What a notebook depends on in the library: what it imports, transitively, and the data those modules read."""
    return [str(path) for path in site.dependencies(Path(f"notebooks/{name}.ipynb"), LIBRARY)]


def data_at_hand():
    """The data sets that this run can read: when one arrives, the notebooks run again."""
    return [name for name in datasets.DATASETS if datasets.available(name)]


localrules: book


rule book:
    input: "_build/html"
    default_target: True


rule notebook:
    input:
        notebook="notebooks/{name}.ipynb",
        library=lambda wildcards: needs(wildcards.name),
    output:
        executed="_build/executed/notebooks/{name}.ipynb",
        records="_build/records/{name}.json",
    params:
        data=data_at_hand(),
    # A notebook that measures time has the machine to itself.
    threads: lambda wildcards: workflow.cores if any("latency" in path for path in needs(wildcards.name)) else 1
    shell:
        "{PYTHON} -m abpn_lib.site execute {input.notebook} --out {output.executed} --records {output.records}"


rule ledger:
    input:
        records=expand("_build/records/{name}.json", name=NOTEBOOKS),
        library=[str(path) for path in site.dependencies(LIBRARY / "claims.py", LIBRARY)] + ["abpn_lib/claims.py"],
    output:
        page="_build/ledger/claims.md",
        summary="_build/ledger/verdicts.md",
    shell:
        "{PYTHON} -m abpn_lib.site ledger {input.records} --page {output.page} --summary {output.summary}"


rule wheel:
    input: PACKAGE, "pyproject.toml", "README.md"
    output: WHEEL
    shell: "{PYTHON} -m build --wheel --no-isolation --outdir _build/wheel . > /dev/null"


# LiteRT for browsers comes from the package registry, and again only when the lock changes: an edit needs no network.
rule litert:
    input: "book/try/package.json", "book/try/package-lock.json"
    output: directory("_build/litert")
    shell: "{PYTHON} -m abpn_lib.browser --litert {output}"


# The log takes what TensorFlow says while it converts the nodes that the page times.
rule browser:
    input:
        litert="_build/litert",
        sources=sorted(str(path) for pattern in ("*.js", "*.css") for path in Path("book/try").glob(pattern)),
        library=[str(path) for path in site.dependencies(LIBRARY / "browser.py", LIBRARY)] + ["abpn_lib/browser.py"],
    output: directory("_build/try")
    log: "_build/log/browser.txt"
    shell: "{PYTHON} -m abpn_lib.browser --litert {input.litert} --out {output} 2> {log}"


rule site:
    input:
        "_config.yml", "_toc.yml",
        sorted(str(path) for path in Path("book").rglob("*") if path.is_file()),
        expand("notebooks/{name}.ipynb", name=NOTEBOOKS),
        expand("_build/executed/notebooks/{name}.ipynb", name=NOTEBOOKS),
        rules.ledger.output,
        wheel=WHEEL,
        browser="_build/try",
    output: directory("_build/html")
    params:
        # A new public address changes the launch buttons, and so the site.
        address=[os.environ.get("ABPN_SITE_URL", ""), os.environ.get("ABPN_REPOSITORY_URL", "")],
    shell:
        "{PYTHON} -m abpn_lib.site build --executed _build/executed/notebooks --ledger _build/ledger"
        " --wheel {input.wheel} --browser {input.browser} --out {output}"


# From here on: only when asked for by name.

# A run: its recipe, what differs from it, and the QAT that follows (none: the float network alone is wanted).
RUNS = {network: ("table2", f"--network {network}", "qat-table2") for network in NETWORKS if network != "nearest"}
RUNS |= {
    f"{network}-seed{seed}": ("table2", f"--network {network} --seed {seed}", None)
    for network in ("abpn", "fsrl") for seed in (1, 2)
}
# The default model: a run, a second that goes on from it with dead channels revived, and the mean of that and two short runs after it.
TUNED = ["abpn-tuned-3", "abpn-tuned-4"]
PARTS = {"abpn-first": ("long", ""), "abpn-second": ("longer", "--after runs/abpn-first")}
PARTS |= {run: ("tuned", f"--seed {run[-1]} --after runs/abpn-second") for run in TUNED}
# What a slower first layer gives, on the images that the tuning takes.
PARTS["abpn-third"] = ("longest", "--after runs/abpn-second")
BEFORE = {run: changes.split("/")[-1] for run, (_, changes) in PARTS.items() if changes}
VARIANTS = {"reference": "abpn", "leaky": "abpn-leaky", "batchnorm": "abpn-batchnorm", "text": "abpn-text"}


def of_seed(name, seed):
    return f"ablation-{name}" + (f"-seed{seed}" if seed else "")


ABLATIONS = {of_seed(name, seed): f"--network {network} --seed {seed}" for name, network in VARIANTS.items() for seed in range(2 if name == "text" else 3)}
ABLATIONS |= {of_seed(f"pairs{pairs}", seed): f"--pairs {pairs} --seed {seed}" for pairs in (1, 3, 4, 7) for seed in range(2)}
ABLATIONS |= {
    "ablation-adam-he": "--optimizer adam --start he --rate 1e-3",
    "ablation-adam-identity": "--optimizer adam --rate 1e-3",
    "ablation-soap-he": "--start he",
}
QAT_WAYS = ["qat-paper", "qat-authors", "qat-kept"]
BENCHMARKS = [name for name in ("embedded", "set5", "set14", "bsd100", "urban100") if datasets.available(name)]


# The row `nearest` computes what `abpn` does, bit for bit (S10): it takes the same trained weights.
WEIGHTS = {run: run for run in [*RUNS, "abpn-long"]} | {"nearest": "abpn"}


def qat_of(run):
    return "qat-long" if run == "abpn-long" else RUNS[WEIGHTS[run]][2]


def kinds(run):
    # Equal channels have unequal kernels: with one scale for a whole kernel, abpn-long would lose five dB.
    tensor = () if run == "abpn-long" else ("int8-ptq-tensor",)
    return ("fp32", "int8-ptq", *tensor) + (("int8-qat",) if qat_of(run) else ())


MODELS = [f"runs/models/{run}-{kind}.tflite" for run in WEIGHTS for kind in kinds(run)]
MODELS += [f"runs/models/{run}-fp32.tflite" for run in [*ABLATIONS, *PARTS]]
MODELS += [f"runs/models/abpn-{recipe}-int8-qat.tflite" for recipe in QAT_WAYS]


rule train:
    input: expand("runs/{run}/weights.npz", run=[*RUNS, *PARTS, *ABLATIONS, "abpn-long"])


rule quantize:
    input: MODELS


RECORDS = [f"psnr-{data}" for data in BENCHMARKS] + [f"field-{data}" for data in BENCHMARKS] + ["curves"]
RECORDS += ["figure3-urban100-images"] if "urban100" in BENCHMARKS else []


rule evaluate:
    input: expand("runs/records/{name}.json", name=RECORDS)


# A run that was killed goes on from its last checkpoint: only the finished weights are named as output.
rule train_run:
    input: lambda wildcards: [f"runs/{BEFORE[wildcards.run]}/weights.npz"] if wildcards.run in BEFORE else []
    output: "runs/{run}/weights.npz"
    wildcard_constraints:
        run="|".join([*RUNS, *PARTS]),
    params:
        recipe=lambda wildcards: (RUNS | PARTS)[wildcards.run][0],
        changes=lambda wildcards: (RUNS | PARTS)[wildcards.run][1],
    shell: "{ABPN} train --recipe {params.recipe} {params.changes} --out runs/{wildcards.run}"


rule average:
    input: [f"runs/{run}/weights.npz" for run in ["abpn-second", *TUNED]]
    output: "runs/abpn-long/weights.npz"
    params:
        runs=[f"runs/{run}" for run in ["abpn-second", *TUNED]],
    shell: "{ABPN} average {params.runs} --out runs/abpn-long"


rule train_ablation:
    output: "runs/{run}/weights.npz"
    wildcard_constraints:
        run="|".join(ABLATIONS),
    params:
        changes=lambda wildcards: ABLATIONS[wildcards.run],
    shell: "{ABPN} train --recipe ablation --save-every 250 {params.changes} --out runs/{wildcards.run}"


for run, weights in WEIGHTS.items():
    rule:
        name: f"quantize_{run}"
        input: f"runs/{weights}/weights.npz"
        output: [f"runs/models/{run}-{kind}.tflite" for kind in kinds(run)]
        params:
            run=weights,
            network="--network nearest" if run == "nearest" else "",
            name=run,
            qat=f"--qat {qat_of(run)} --save-every 100" if qat_of(run) else "",
            form="--equalize --round" if run == "abpn-long" else "--per-tensor",
        shell:
            "{ABPN} quantize --run runs/{params.run} --out runs/models --name {params.name} {params.network}"
            " {params.form} {params.qat}"


rule export_float:
    input: "runs/{run}/weights.npz"
    output: "runs/models/{run}-fp32.tflite"
    wildcard_constraints:
        run="|".join([*ABLATIONS, *PARTS]),
    shell: "{ABPN} quantize --run runs/{wildcards.run} --out runs/models --name {wildcards.run} --float-only"


# The learning rates of the paper and of the authors' code, and ranges that stay, in our budget and on our images.
rule quantize_another_way:
    input: "runs/abpn/weights.npz"
    output: "runs/models/abpn-{recipe}-int8-qat.tflite"
    wildcard_constraints:
        recipe="|".join(QAT_WAYS),
    shell:
        "{ABPN} quantize --run runs/abpn --out runs/models --name abpn-{wildcards.recipe} --save-every 100"
        " --qat {wildcards.recipe} --steps 1000 --data train --batch 8 --patch 32"


def scored_on(data):
    """The models to score on a data set; the ablations' differences need no hundred large images."""
    return [path for path in MODELS if not (data == "urban100" and "ablation" in path)]


AUTHORS = "--model authors-int8-ptq --model authors-int8-qat" if datasets.available("authors") else ""
LONG = [f"runs/models/abpn-long-{kind}.tflite" for kind in ("fp32", "int8-ptq", "int8-qat")]


rule evaluate_models:
    input: lambda wildcards: scored_on(wildcards.data)
    output: "runs/records/psnr-{data}.json"
    params:
        models=lambda wildcards, input: " ".join(f"--model {path}" for path in input),
    shell: "{ABPN} evaluate --model bicubic {AUTHORS} {params.models} --data {wildcards.data} --no-ssim --out {output}"


# By the protocol that most of the field uses.
rule evaluate_y:
    input: LONG
    output: "runs/records/field-{data}.json"
    params:
        models=" ".join(f"--model {path}" for path in LONG),
    shell:
        "{ABPN} evaluate --model bicubic {AUTHORS} {params.models} --data {wildcards.data} --protocol field --no-ssim --out {output}"


rule evaluate_images:
    input: [f"runs/models/{name}.tflite" for name in ("fsrcnn-int8-ptq", "fsrcnn-int8-qat", "abpn-int8-qat", "abpn-long-int8-ptq")]
    output: "runs/records/figure3-urban100-images.json"
    params:
        models=lambda wildcards, input: " ".join(f"--model {path}" for path in input),
    shell: "{ABPN} evaluate --model bicubic {params.models} --data urban100 --image all --out {output}"


rule curves:
    input: expand("runs/{run}/weights.npz", run=[*RUNS, *PARTS, *ABLATIONS, "abpn-long"]), MODELS
    output: "runs/records/curves.json"
    params:
        runs=[f"runs/{run}" for run in ABLATIONS] + [f"runs/abpn/{name}" for name in ("qat-table2", *QAT_WAYS)] + [f"runs/{run}" for run in ("abpn", *PARTS, "abpn-long")],
    shell: "{ABPN} curves {params.runs} --out {output}"

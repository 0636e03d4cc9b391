# From data to the shipped models and records, only when asked for by name. The runs are in config/runs.yaml.

GROUPED = {run: {**group, "options": f"{group.get('options', '')} {options}".strip()}
           for group in config["groups"].values() for run, options in group["runs"].items()}
RUNS = GROUPED | config["chain"]
# Where the weights of a name's files come from, and how its files are made.
SOURCES = GROUPED | config["same_weights"]
SOURCES |= {run: {"forms": ["fp32"], **how} for part in ("chain", "means") for run, how in config[part].items()}
CORES = {kind: job["threads"] for kind, job in config["resources"].items()}
JOBS = {kind: {key: value for key, value in job.items() if key != "threads"} for kind, job in config["resources"].items()}
SCORED = [name for name in datasets.SCORED if datasets.available(name)]

MODELS = [f"runs/models/{name}-{form}.tflite" for name, source in SOURCES.items() for form in source["forms"]]
MODELS += [f"runs/models/abpn-{recipe}-int8-qat.tflite" for recipe in config["qat_ways"]]
# Of the default model and of Figure 3's, where the runs make them: a graph of your own may leave them out.
FIELD = [f"runs/models/abpn-long-{form}.tflite" for form in ("fp32", "int8-ptq", "int8-qat")]
FIGURE3 = [f"runs/models/{name}.tflite" for name in ("fsrcnn-int8-ptq", "fsrcnn-int8-qat", "abpn-int8-qat", "abpn-long-int8-ptq")]
RECORDS = [f"psnr-{data}" for data in SCORED] + ["curves"]
RECORDS += [f"psnr-{name}" for name in ("select", "div2k-valid-36") if datasets.available(name)]
RECORDS += [f"field-{data}" for data in SCORED if {*FIELD} <= {*MODELS}]
RECORDS += ["figure3-urban100-images"] if "urban100" in SCORED and {*FIGURE3} <= {*MODELS} else []


localrules: train, quantize, evaluate

rule train:
    input: expand("runs/{run}/weights.npz", run=[*RUNS, *config["means"]])


rule quantize:
    input: MODELS


rule evaluate:
    input: expand("runs/records/{name}.json", name=RECORDS)


def before(wildcards):
    after = RUNS[wildcards.run].get("after")
    return f"runs/{after}/weights.npz" if after else []


def cores(wildcards):
    """Those of the run's own `--threads`, on which its bits depend, else what the configuration says."""
    words = RUNS[wildcards.run].get("options", "").split()
    return int(words[words.index("--threads") + 1]) if "--threads" in words else CORES["train"]


# A run that was killed goes on from its last checkpoint: only the finished weights are named as output.
rule train_run:
    input: before
    output: "runs/{run}/weights.npz"
    wildcard_constraints:
        run="|".join(RUNS),
    params:
        recipe=lambda wildcards: RUNS[wildcards.run]["recipe"],
        options=lambda wildcards: RUNS[wildcards.run].get("options", ""),
        after=lambda wildcards, input: f"--after {Path(input[0]).parent}" if input else "",
    threads: cores
    resources: **JOBS["train"]
    shell: "{ABPN} train --recipe {params.recipe} {params.options} {params.after} --out runs/{wildcards.run}"


rule average:
    input: lambda wildcards: [f"runs/{run}/weights.npz" for run in config["means"][wildcards.run]["of"]]
    output: "runs/{run}/weights.npz"
    wildcard_constraints:
        run="|".join(config["means"]) or "(?!)",
    params:
        runs=lambda wildcards: [f"runs/{run}" for run in config["means"][wildcards.run]["of"]],
    threads: CORES["small"]
    resources: **JOBS["small"]
    shell: "{ABPN} average {params.runs} --out runs/{wildcards.run}"


def run_of(name):
    return SOURCES[name].get("run", name)


def quantize(wildcards):
    """The command that writes a name's files: float32 and PTQ always, others as its forms say."""
    source = SOURCES[wildcards.name]
    network = f"--network {wildcards.name}" if "run" in source else ""
    return f"{ABPN} quantize --run runs/{run_of(wildcards.name)} --out runs/models --name {wildcards.name} {network}"


# One rule a form of file.
rule fp32:
    input: lambda wildcards: f"runs/{run_of(wildcards.name)}/weights.npz"
    output: "runs/models/{name}-fp32.tflite"
    params:
        command=quantize,
    threads: CORES["quantize"]
    resources: **JOBS["quantize"]
    shell: "{params.command} --form fp32"


rule int8_ptq:
    input: lambda wildcards: f"runs/{run_of(wildcards.name)}/weights.npz"
    output: "runs/models/{name}-int8-ptq.tflite"
    params:
        command=quantize,
        how=lambda wildcards: SOURCES[wildcards.name].get("quantize", ""),
    threads: CORES["quantize"]
    resources: **JOBS["quantize"]
    shell: "{params.command} {params.how} --form int8-ptq"


rule int8_ptq_tensor:
    input: lambda wildcards: f"runs/{run_of(wildcards.name)}/weights.npz"
    output: "runs/models/{name}-int8-ptq-tensor.tflite"
    params:
        command=quantize,
    threads: CORES["quantize"]
    resources: **JOBS["quantize"]
    shell: "{params.command} --form int8-ptq-tensor"


rule int8_ptq_folded:
    input: lambda wildcards: f"runs/{run_of(wildcards.name)}/weights.npz"
    output: "runs/models/{name}-int8-ptq-folded.tflite"
    params:
        command=quantize,
        how=lambda wildcards: SOURCES[wildcards.name].get("quantize", ""),
    threads: CORES["quantize"]
    resources: **JOBS["quantize"]
    shell: "{params.command} {params.how} --form int8-ptq-folded"


rule int8_qat:
    input: lambda wildcards: f"runs/{run_of(wildcards.name)}/weights.npz"
    output: "runs/models/{name}-int8-qat.tflite"
    wildcard_constraints:
        name="|".join(SOURCES),
    params:
        command=quantize,
        how=lambda wildcards: SOURCES[wildcards.name].get("quantize", ""),
        recipe=lambda wildcards: SOURCES[wildcards.name]["qat"],
    threads: CORES["train"]
    resources: **JOBS["train"]
    shell: "{params.command} {params.how} --qat {params.recipe} --save-every 100 --form int8-qat"


rule int8_qat_another_way:
    input: "runs/abpn/weights.npz"
    output: "runs/models/abpn-{recipe}-int8-qat.tflite"
    wildcard_constraints:
        recipe="|".join(config["qat_ways"]) or "(?!)",
    threads: CORES["train"]
    resources: **JOBS["train"]
    shell:
        "{ABPN} quantize --run runs/abpn --out runs/models --name abpn-{wildcards.recipe} --save-every 100"
        " --qat {wildcards.recipe} {config[qat_budget]} --form int8-qat"


def scored_on(wildcards):
    """The models to score on a data set; the ablations' differences need no hundred large images."""
    return [path for path in MODELS if not (wildcards.data == "urban100" and "ablation" in path)]


AUTHORS = "--model authors-int8-ptq --model authors-int8-qat" if datasets.available("authors") else ""


def as_options(wildcards, input):
    return " ".join(f"--model {path}" for path in input)


rule evaluate_models:
    input: scored_on
    output: "runs/records/psnr-{data}.json"
    params:
        models=as_options,
    threads: CORES["evaluate"]
    resources: **JOBS["evaluate"]
    shell: "{ABPN} evaluate --model bicubic {AUTHORS} {params.models} --data {wildcards.data} --no-ssim --out {output}"


# By the protocol of most of the literature.
rule evaluate_y:
    input: FIELD
    output: "runs/records/field-{data}.json"
    params:
        models=as_options,
    threads: CORES["evaluate"]
    resources: **JOBS["evaluate"]
    shell:
        "{ABPN} evaluate --model bicubic {AUTHORS} {params.models} --data {wildcards.data} --protocol y --no-ssim"
        " --out {output}"


rule evaluate_images:
    input: FIGURE3
    output: "runs/records/figure3-urban100-images.json"
    params:
        models=as_options,
    threads: CORES["evaluate"]
    resources: **JOBS["evaluate"]
    shell: "{ABPN} evaluate --model bicubic {params.models} --data urban100 --image all --out {output}"


rule curves:
    input: rules.train.input, MODELS
    output: "runs/records/curves.json"
    params:
        runs=[f"runs/{run}" for run in (*config["groups"]["ablations"]["runs"], *config["chain"], *config["means"])]
        + [f"runs/{run}" for run in ("abpn", *(f"abpn/{recipe}" for recipe in ("qat-table2", *config["qat_ways"]))) if "abpn" in RUNS],
    threads: CORES["small"]
    resources: **JOBS["small"]
    shell: "{PYTHON} -m tools.curves {params.runs} --out {output}"

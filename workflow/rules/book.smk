# From notebooks to the site.
import os
import tomllib

from tools import site

LIBRARY = Path("abpn_lib")
NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
VERSION = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
WHEEL = f"_build/wheel/abpn_lib-{VERSION}-py3-none-any.whl"

# Everything in the package, as it goes into the wheel.
PACKAGE = sorted(
    str(path) for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
)
# Snakemake deletes a rule's outputs before it runs. Only this mark is one: the site before stays until the next is whole.
SITE = "_build/html/.whole"


def needs(name):
    """What a notebook depends on in the library: what it imports, transitively, and the data those modules read."""
    return [str(path) for path in site.dependencies(Path(f"notebooks/{name}.ipynb"), LIBRARY)]


localrules: book

rule book:
    input: SITE
    default_target: True


rule notebook:
    input:
        notebook="notebooks/{name}.ipynb",
        library=lambda wildcards: needs(wildcards.name),
    output:
        executed="_build/executed/notebooks/{name}.ipynb",
        records="_build/records/{name}.json",
    params:
        # The data sets that this run can read: when one arrives, the notebooks run again.
        data=[name for name in datasets.DATASETS if datasets.available(name)],
    # A notebook that measures time has the machine to itself.
    threads: lambda wildcards: workflow.cores if any("timing" in path for path in needs(wildcards.name)) else 1
    shell:
        "{PYTHON} -m tools.site execute {input.notebook} --out {output.executed} --records {output.records}"


rule ledger:
    input:
        records=expand("_build/records/{name}.json", name=NOTEBOOKS),
        library=[str(path) for path in site.dependencies(Path("tools/site.py"), LIBRARY)] + ["tools/site.py"],
    output:
        page="_build/ledger/claims.md",
        summary="_build/ledger/verdicts.md",
        data=["_build/ledger/claims.json", "_build/ledger/claims.csv"],
    shell:
        "{PYTHON} -m tools.site ledger {input.records} --page {output.page} --summary {output.summary}"


rule wheel:
    input: PACKAGE, "pyproject.toml", "README.md"
    output: WHEEL
    shell: "{PYTHON} -m build --wheel --no-isolation --outdir _build/wheel . > /dev/null"


# LiteRT for browsers comes from the package registry, and again only when the lock changes: an edit needs no network.
rule litert:
    input: "book/try/package.json", "book/try/package-lock.json"
    output: directory("_build/litert")
    shell: "{PYTHON} -m tools.browser --litert {output}"


# The log takes what TensorFlow says while it converts the nodes that the page times.
rule browser:
    input:
        litert="_build/litert",
        sources=sorted(str(path) for pattern in ("*.js", "*.css") for path in Path("book/try").glob(pattern)),
        library=[str(path) for path in site.dependencies(Path("tools/browser.py"), LIBRARY)] + ["tools/browser.py"],
    output: directory("_build/try")
    log: "_build/log/browser.txt"
    shell: "{PYTHON} -m tools.browser --litert {input.litert} --out {output} 2> {log}"


rule site:
    input:
        "_config.yml", "_toc.yml",
        sorted(str(path) for path in Path("book").rglob("*") if path.is_file()),
        expand("notebooks/{name}.ipynb", name=NOTEBOOKS),
        expand("_build/executed/notebooks/{name}.ipynb", name=NOTEBOOKS),
        expand("_build/records/{name}.json", name=NOTEBOOKS),
        rules.ledger.output,
        wheel=WHEEL,
        browser="_build/try",
    output: touch(SITE)
    params:
        # A new public address changes the launch buttons, and so the site.
        address=[os.environ.get("ABPN_SITE_URL", ""), os.environ.get("ABPN_REPOSITORY_URL", "")],
    shell:
        "{PYTHON} -m tools.site build --executed _build/executed/notebooks --records _build/records --ledger _build/ledger"
        " --wheel {input.wheel} --browser {input.browser} --out _build/html"

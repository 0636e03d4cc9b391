"""The graph on a real Slurm, which the test starts on loopback: a job is killed, a node drained, and no bit changes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from abpn_lib import results
from abpn_lib.files import sha256

ROOT = Path(__file__).parent.parent
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Slurm's daemons"),
]

# No accounts, no cgroups: what a container allows. Each node has room for one training job at a time.
CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=36000
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=5000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=5000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""
RUNS = ("ablation-reference", "ablation-pairs1")


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """The first true answer of `what`; a test that hangs would say nothing."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find a cluster of two nodes, n1 and n2."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="needs the extra `cluster`")
    ours = ("SLURM", "SNAKEMAKE", "ABPN")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # munge wants its socket within everybody's reach
        for part in ("state", "n1", "n2"):
            (folder / part).mkdir()
        (folder / "slurm.conf").write_text(CONF.format(
            host=socket.gethostname().partition(".")[0], ports=free_ports(3), folder=folder
        ))
        # The executor takes every variable of Slurm's from its jobs: within one, srun must find the settings by itself.
        (folder / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        (folder / "srun").chmod(0o755)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1",
                        "PATH": f"{folder}:{os.environ['PATH']}"}
        files = [f"--{part}-file={folder}/{part}" for part in ("key", "pid", "log", "seed")]
        daemons: list[subprocess.Popen[bytes]] = []
        with (folder / "out").open("wb") as log:
            try:
                for command in (["munged", "--foreground", f"--socket={folder}/munge", *files],
                                ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
                    daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                    if command[0] == "munged":
                        wait_for((folder / "munge").exists, 60)
                wait_for(lambda: answer(environment, "sinfo", "-h", "-o", "%D %t") == "2 idle", 120)
                yield environment
            finally:
                subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], env=environment, check=False)
                for daemon in reversed(daemons):
                    daemon.terminate()
                    daemon.wait()


def answer(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm prints; "" while there is nobody to answer it."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def jobs(environment: dict[str, str]) -> dict[int, dict[str, str]]:
    """All jobs so far by number, as Slurm describes them."""
    lines = answer(environment, "scontrol", "--oneliner", "show", "job").splitlines()
    found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return {int(job["JobId"]): job for job in found if "JobId" in job}


def small_graph(folder: Path) -> Path:
    """A folder with this project's own rules and resources, but two short runs on the embedded images."""
    (folder / "config").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    for name in ("abpn_lib", "tools", "book", "workflow", "pyproject.toml", "README.md", "_toc.yml", "_config.yml"):
        (folder / name).symlink_to(ROOT / name)
    group = {
        "recipe": "ablation", "quantize": "--calibrate embedded --images 4", "forms": ["fp32", "int8-ptq"],
        "options": "--data embedded --steps 600 --batch 2 --patch 16 --save-every 10 --no-validation --quiet",
        "runs": {"ablation-reference": "--network abpn", "ablation-pairs1": "--pairs 1"},
    }
    own = yaml.safe_load((ROOT / "config" / "runs.yaml").read_text())
    none: dict[str, Any] = {"chain": {}, "means": {}, "same_weights": {}, "qat_ways": []}
    (folder / "config" / "runs.yaml").write_text(yaml.safe_dump({**own, **none, "groups": {"ablations": group}}))
    return folder


def bits(folder: Path) -> dict[str, Any]:
    """What the graph made: hashes of weights and models, and the records' values."""
    files = [*folder.glob("runs/*/weights.npz"), *folder.glob("runs/models/*.tflite")]
    made: dict[str, Any] = {str(path.relative_to(folder)): sha256(path) for path in files}
    for path in folder.glob("runs/records/*.json"):
        made[path.name] = [(record.id, record.value) for record in results.load(path)]
    return made


def test_a_killed_job_and_a_drained_node_change_no_bit(slurm: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "train", "quantize", "evaluate"]
    there, here = small_graph(tmp_path / "slurm"), small_graph(tmp_path / "alone")
    profile = ["--profile", str(ROOT / "profiles" / "slurm"), "--slurm-init-seconds-before-status-checks", "3"]
    log = tmp_path / "log"
    with log.open("w") as file:
        whole = subprocess.Popen([*command, *profile], cwd=there, env=slurm, stdout=file, stderr=file)
    try:
        checkpoints = [there / "runs" / run / "checkpoint.npz" for run in RUNS]
        wait_for(lambda: whole.poll() is not None or any(path.exists() for path in checkpoints), 1200)
        assert whole.poll() is None, log.read_text()[-3000:]
        run = next(path.parent.name for path in checkpoints if path.exists())
        killed, job = next((number, job) for number, job in jobs(slurm).items() if job["Comment"].endswith(run))
        node, last = job["NodeList"], max(jobs(slurm))
        assert not (there / "runs" / run / "weights.npz").exists(), "killed in the middle"
        answer(slurm, "scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
        answer(slurm, "scancel", "--signal=KILL", "--full", str(killed))
        assert whole.wait(2400) == 0, log.read_text()[-3000:]
    finally:
        whole.terminate()
        whole.wait()

    done = jobs(slurm)
    assert done[killed]["JobState"] != "COMPLETED"
    after = [job for number, job in done.items() if number > last]
    assert {job["NodeList"] for job in after} == {"n1", "n2"} - {node}, "nothing new runs on a drained node"
    assert any(job["Comment"].endswith(run) for job in after), "the killed run went on elsewhere"
    wanted = yaml.safe_load((ROOT / "config" / "runs.yaml").read_text())["resources"]["train"]
    assert (job["TimeLimit"], job["MinMemoryNode"], int(job["NumCPUs"])) == (
        f"{wanted['runtime'] // 60:02}:{wanted['runtime'] % 60:02}:00", f"{wanted['mem_mb']}M", wanted["threads"]
    )
    subprocess.run([*command, "--cores", "2"], cwd=here, env=slurm, capture_output=True, check=True)
    made = bits(there)
    assert len(made) == 8, "two runs, four models, two files of records"
    assert made == bits(here)

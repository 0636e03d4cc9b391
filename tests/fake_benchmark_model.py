"""What the fake phone runs for TensorFlow's benchmark_model; see fake_adb.py."""

import ast
import os
import sys
import time
from pathlib import Path

words = [word.lstrip("-").partition("=") for word in sys.argv[1:]]
flags = {name: value for name, _, value in words}
plan = ast.literal_eval((Path(__file__).resolve().parents[4] / "tool").read_text())
old, say = plan.get("old"), "" if plan.get("old") else "INFO: "


def info(text):
    print(say + text, flush=True)


def fail(*lines):
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    print(("" if old else "ERROR: ") + "Benchmarking failed.", file=sys.stderr)
    sys.exit(1)


info("STARTING!")
info("Log parameter values verbosely: [0]")
info(f"Num threads: [{flags['num_threads']}]")
info(f"Graph: [{flags['graph']}]")
content = Path(flags["graph"]).read_bytes()
delegate = next((name for name in ("gpu", "nnapi", "xnnpack") if flags.get("use_" + name) == "true"), "")
title = {"xnnpack": "XNNPACK", "gpu": "GPU", "nnapi": "NNAPI"}.get(delegate, "")
takes = plan.get("takes", {}).get(delegate, "completely")
if delegate == "nnapi":
    info(f"NNAPI accelerators available: [{plan.get('accelerators', 'qti-default,qti-dsp,nnapi-reference')}]")
info(f"Loaded model {flags['graph']}")
print("INFO: Initialized TensorFlow Lite runtime.", flush=True)
if "sleeps" in plan:
    Path(plan["sleeps"]).write_text(str(os.getpid()))
    time.sleep(60)
if takes == "crash":
    os.kill(os.getpid(), 11)
if takes == "refuses":
    print("ERROR: NN API returned error ANEURALNETWORKS_OP_FAILED at line 3779 while completing NNAPI compilation.\n",
          flush=True)
    fail("ERROR: Restored original execution plan after delegate application failure.",
         ("" if old else "ERROR: ") + f"Failed to apply {title} delegate.")
if takes == "absent":
    info("GPU acceleration is unsupported on this platform.")
elif takes == "nothing":
    info(f"Though {title} delegate is explicitly applied, the model graph will not be executed by the delegate.")
elif takes == "old":
    info(f"Applied {title} delegate.")
elif delegate:
    applied = f"pplied {title} delegate, and the model graph will be {takes} executed "
    kernels = " w/ 2 delegate kernels." if takes == "partially" else "."
    info(f"A{applied}w/ the delegate." if old else f"Explicitly a{applied}by the delegate{kernels}")
info(f"The input model file size (MB): {len(content) / 1e6}")
info("Initialized session in 16.242ms.")
base = 4000 + 3 * len(content) // 10 + sum(content[::97]) % 4000
speed = {"gpu": 6, "nnapi": 9}.get(delegate, int(flags["num_threads"]) ** 0.8)


def runs(count):
    times = sorted(int(base / speed * (1 + (37 * n % 23) / 200)) for n in range(count))
    mean = sum(times) / count
    std = int((sum((time - mean) ** 2 for time in times) / count) ** 0.5)
    info(f"Running benchmark for at least {count} iterations and at least 1 seconds but terminate if exceeding 150 "
         "seconds.")
    text = f"count={count} first={times[-1]} curr={times[0]} min={times[0]} max={times[-1]} avg={mean:g} std={std}"
    if not old:
        text += f" p5={times[count * 5 // 100]} median={times[count // 2]} p95={times[count * 95 // 100]}"
    info(text + "\n")
    return mean


warm, mean = runs(3), runs(int(flags["num_runs"]))
if old:
    print(f"Average inference timings in us: Warmup: {warm:g}, Init: 16242, Inference: {mean:g}")
    sys.exit()
info(f"Inference timings in us: Init: 16242, First inference: 30000, Warmup (avg): {warm:g}, Inference (avg): {mean:g}")
info("Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
     "memory footprint of the model at runtime. Take the information at your discretion.")
info("Memory footprint delta from the start of the tool (MB): init=4.92969 overall=138.809")

"""One operation of modelkit_assets or of modelkit, timed inside its own process.

    python -I operations.py result.json '{"tool": "ours", "core": "/repo",
        "operation": "fetch", "spec": "bench/folder:0.0", "assets_dir": "assets"}'

The clock starts after `import modelkit_assets`, so boto3's import and first client are
counted; modelkit's own import, which loads boto3, and its client are not.
"""

import inspect
import json
import sys
import time


class NotSupportedError(Exception):
    """This version of the tool cannot do it."""


def load(tool, core):
    """Return a tool's AssetsManager and StorageProvider."""
    if tool == "ours":
        sys.path.insert(0, core)
        from modelkit_assets import AssetsManager, StorageProvider
    else:
        from modelkit.assets.manager import AssetsManager
        from modelkit.assets.remote import StorageProvider
    return AssetsManager, StorageProvider


def fetch(make, job):
    manager = make(job["assets_dir"])
    yield
    yield manager.fetch_asset(job["spec"])


def fetch_each(make, job):
    """Fetch several, one after the other."""
    manager = make(job["assets_dir"])
    yield
    yield [manager.fetch_asset(spec) for spec in job["specs"]]


def hit(make, job):
    """Fetch what is cached, many times."""
    manager = make(job["assets_dir"])
    yield
    best = None
    for _ in range(job["repeats"]):
        start = time.perf_counter()
        for _ in range(job["number"]):
            manager.fetch_asset(job["spec"])
        each = (time.perf_counter() - start) / job["number"]
        best = min(best or each, each)
    yield best


def push(make, job):
    """Publish a new asset; modelkit must be told the version."""
    provider = make()
    arguments = {} if job["tool"] == "ours" else {"version": "0.0"}
    if job.get("pack"):
        if "pack" not in inspect.signature(provider.new).parameters:
            raise NotSupportedError("packing is not supported")
        arguments["pack"] = True
    yield
    yield provider.new(job["path"], job["name"], **arguments)


def list_assets(make, job):
    provider = make()
    yield
    assets = dict(provider.iterate_assets())
    if len(assets) != job["number"]:
        raise AssertionError(f"{len(assets)} assets, not {job['number']}")
    yield len(assets)


def read_peak():
    """Return the peak of this process's resident memory, in bytes."""
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def run(job):
    """Do a job, and return what was measured."""
    manager, provider = load(job["tool"], job["core"])
    kinds = {"fetch": (fetch, manager), "fetch_each": (fetch_each, manager)}
    kinds["hit"] = (hit, manager)
    kinds.update({"push": (push, provider), "list": (list_assets, provider)})
    function, make = kinds[job["operation"]]
    begin = time.perf_counter()
    steps = function(make, job)
    next(steps)
    ready = time.perf_counter()
    value = next(steps)
    end = time.perf_counter()
    start = begin if job["tool"] == "ours" else ready
    seconds = value if job["operation"] == "hit" else end - start
    return {"seconds": seconds, "peak": read_peak()}


def main(result, job):
    try:
        measured = run(json.loads(job))
    except NotSupportedError as error:
        measured = {"missing": str(error)}
    with open(result, "w") as file:
        json.dump(measured, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

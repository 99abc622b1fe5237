"""Managers and providers in other processes: of a pool, of Dask, and of Spark.

Sixteen tasks on one node ask a real S3 server for one asset, through a proxy that
counts what they ask, and holds its data back until all are at it.
"""

import importlib.util
import itertools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import attacks
import pytest
from places import ROOT
from readme import TEXTS, find_blocks
from stores import LocalStore, MotoStore
from trees import read_tree, write_tree

import modelkit_assets as ma

NAME = "nlp/bert"
FILES = {"vocab.txt": b"one two", "deep/weights.bin": b"weights " * 1000}
TASKS, PROCESSES = 16, 4
WAIT_S = 60


class Gate:
    """A script that holds the asset's data until so many asked for what comes before.

    That is its list of versions, or where these are pinned, its manifest.
    """

    def __init__(self, script, number, before=".versions"):
        self._script, self._number, self._before = script, number, before
        self._arrivals, self.is_open = itertools.count(1), threading.Event()

    def __call__(self, request):
        if request.target.endswith(f"/{NAME}{self._before}"):
            if next(self._arrivals) == self._number:
                self.is_open.set()
        elif f"/{NAME}/0.0/" in request.target:
            self.is_open.wait(WAIT_S)
        return self._script(request)


@pytest.fixture
def published(make_proxied_store, stub, assets_dir, tmp_path, monkeypatch):
    """Return a function that publishes, and then holds the data of the asset back."""
    monkeypatch.setenv("MODELKIT_ASSETS_TIMEOUT_S", str(WAIT_S))
    make_proxied_store(MotoStore)

    def publish(number, *before):
        provider = ma.StorageProvider()
        provider.new(write_tree(tmp_path / "source", FILES), NAME)
        provider.new(tmp_path / "source" / "vocab.txt", "nlp/other")
        stub.requests.clear()
        stub.script = Gate(stub.script, number, *before)
        return ma.AssetsManager()

    return publish


def check_one_download(stub, assets_dir, infos):
    """Check that all got the same path, and that each file was asked for once."""
    path = assets_dir / NAME / "0.0"
    assert stub.script.is_open.is_set(), "they were not at it together"
    assert [info["path"] for info in infos] == [str(path)] * TASKS
    assert sorted(info["from_cache"] for info in infos) == [False] + [True] * 15
    assert read_tree(path) == FILES
    assert count_downloads(stub) == {f"0.0/{part}": 1 for part in FILES}


def count_downloads(stub):
    """Return how often each of the asset's files was asked for."""
    return Counter(
        request.target.partition(f"/{NAME}/")[2]
        for request in stub.requests
        if f"/{NAME}/0.0/" in request.target
    )


# ------------------------------------------------------------------------- pools

POOL = """
import json, os, sys, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from multiprocessing import get_context

core = import_module(sys.argv[1])
here = client = None  # what a fork takes along unpickled

def fetch(manager, name):
    manager = manager or here
    info = manager.fetch_asset(name, return_info=True)
    assert manager.storage_provider.driver.client is not client
    return {**info, "meta": None, "pid": os.getpid(), "type": str(type(manager))}

def read(provider, name):
    return provider.get_versions_info(name)

def ask_until(done, manager):
    while not done.is_set():
        manager.storage_provider.get_versions_info("nlp/other")

if __name__ == "__main__":
    method, name, tasks, processes = sys.argv[2], sys.argv[3], *map(int, sys.argv[4:])
    manager, done = core.AssetsManager(), threading.Event()
    manager.fetch_asset("nlp/other")
    here, client = manager, manager.storage_provider.driver.client
    managers = [manager, None if method == "fork" else manager] * (tasks // 2)
    with ThreadPoolExecutor(4) as threads:  # busy with the client at the fork
        asking = [threads.submit(ask_until, done, manager) for _ in range(4)]
        try:
            with ProcessPoolExecutor(processes, get_context(method)) as pool:
                infos = pool.map(fetch, managers, [name] * tasks)
                done.set()
                infos = list(infos)
                provider = manager.storage_provider
                assert pool.submit(read, provider, name).result() == ["0.0"]
                error = pool.submit(fetch, manager, "no/such").exception()
                assert type(error) is core.AssetDoesNotExistError, repr(error)
                assert error.name == "no/such"
        finally:
            done.set()
        [future.result() for future in asking]
    print(json.dumps(infos))
"""


@pytest.mark.server
@attacks.parametrize("method", ["spawn", "fork"])
@attacks.parametrize("package", ["", "app.vendor"])
def test_of_sixteen_tasks_of_a_pool_one_downloads(
    published, stub, assets_dir, tmp_path, method, package
):
    """A pool that is spawned, or forked while the client is in use by threads."""
    published(PROCESSES)
    folder = tmp_path.joinpath("project", *package.split("."))
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "modelkit_assets.py", folder)
    shutil.copytree(ROOT / "drivers", folder / "drivers")
    script = tmp_path / "project" / "job.py"
    script.write_text(POOL)
    core = ".".join(filter(None, [package, "modelkit_assets"]))
    arguments = [core, method, NAME, TASKS, PROCESSES]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=tmp_path, capture_output=True, text=True, timeout=2 * WAIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    infos = json.loads(done.stdout)
    assert len({info["pid"] for info in infos}) > 1
    assert {info["type"] for info in infos} == {f"<class '{core}.AssetsManager'>"}
    check_one_download(stub, assets_dir, infos)


# -------------------------------------------------------------------------- Dask


@pytest.fixture
def dask_client(dask_cluster):
    with dask_cluster.get_client() as client:
        yield client


def fetch(_, manager):
    info = manager.fetch_asset(NAME, return_info=True)
    return {**info, "meta": None, "pid": os.getpid()}


@pytest.mark.attack
@pytest.mark.server
def test_of_sixteen_tasks_of_dask_one_downloads(
    published, stub, assets_dir, dask_client
):
    manager = published(TASKS)
    manager.fetch_asset("nlp/other")  # so that its client is in use
    infos = dask_client.gather(
        dask_client.map(fetch, range(TASKS), manager=manager, pure=False)
    )
    pids = {info["pid"] for info in infos}
    assert len(pids) == 2
    assert os.getpid() not in pids
    check_one_download(stub, assets_dir, infos)


@pytest.mark.attack
@pytest.mark.server
def test_a_provider_serves_dasks_workers(published, dask_client, tmp_path):
    provider = published(0).storage_provider
    ask = dask_client.submit(provider.get_versions_info, NAME, pure=False)
    assert ask.result(WAIT_S) == ["0.0"]
    source = write_tree(tmp_path / "source", {"vocab.txt": b"three"})
    update = dask_client.submit(provider.update, source, NAME, pure=False)
    assert update.result(WAIT_S) == "0.1"
    assert provider.get_versions_info(NAME) == ["0.1", "0.0"]


@pytest.mark.attack
@pytest.mark.server
def test_an_error_comes_back_from_dasks_workers_as_it_was(published, dask_client):
    manager = published(0)
    with pytest.raises(ma.AssetDoesNotExistError, match="'no/such'") as caught:
        dask_client.submit(manager.fetch_asset, "no/such").result(WAIT_S)
    assert caught.value.name == "no/such"
    provider = manager.storage_provider
    with pytest.raises(ma.ObjectDoesNotExistError) as caught:
        dask_client.submit(provider.get_versions_info, "no/such").result(WAIT_S)
    assert caught.value.object_name == "modelkit-assets/no/such.versions"


# ------------------------------------------------------------------------- Spark

PYSPARK = importlib.util.find_spec("pyspark")
EXECUTORS = 2  # processes of one core each: as many tasks are at work at once
# the function of README.md here, with all that it needs, as that hands it over
SPARK = """
import functools, json, runpy, sys
from pyspark import SparkConf, SparkContext

job = runpy.run_path("job.py")
manager = job["AssetsManager"]()
spec = manager.resolve("nlp/bert[vocab.txt]")
archive, function, tasks, executors = *sys.argv[1:3], *map(int, sys.argv[3:])
conf = SparkConf().setMaster(f"local-cluster[{executors},1,1024]").setAppName("job")
conf.set("spark.ui.enabled", "false").set("spark.driver.host", "127.0.0.1")
conf.set("spark.archives", f"{archive}#core")
conf.set("spark.executorEnv.PYTHONPATH", "core")
with SparkContext(conf=conf) as context:
    rdd = context.parallelize(["one day"] * tasks, tasks)
    counts = eval(f"rdd.mapPartitions({function})", {**job, **globals()}).collect()
    where = rdd.mapPartitions(lambda _: [__import__("modelkit_assets").__file__])
    print(json.dumps([counts, where.collect()]))
"""


@pytest.fixture
def spark_home(tmp_path):
    """Spark as pip installed it, but its workers write into a folder of the test's."""
    home, real = tmp_path / "spark", Path(PYSPARK.origin).parent
    home.mkdir()
    for entry in real.iterdir():
        (home / entry.name).symlink_to(entry)
    return home


@pytest.mark.attack
@pytest.mark.server
@pytest.mark.skipif(not PYSPARK, reason="no pyspark: it is the group `spark`")
@pytest.mark.skipif(not shutil.which("java"), reason="Spark needs Java")
def test_of_sixteen_tasks_of_spark_one_downloads(
    published, stub, assets_dir, tmp_path, spark_home
):
    """In processes that have the core and its drivers from the job's archive alone."""
    published(EXECUTORS, "/0.0.meta")
    core = tmp_path / "core"
    shutil.copytree(ROOT / "drivers", core / "drivers")
    shutil.copy(ROOT / "modelkit_assets.py", core)
    archive = shutil.make_archive(core, "zip", core)
    page = TEXTS["processes"]
    (job,) = find_blocks("python", page)
    (tmp_path / "job.py").write_text(job)
    (function,) = re.findall(r"`rdd\.mapPartitions\((.*)\)`", page)
    arguments = ["-c", SPARK, archive, function, TASKS, EXECUTORS]
    environ = {
        **os.environ,
        "PYTHONPATH": str(core),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(spark_home),
        "SPARK_LOCAL_DIRS": str(tmp_path / "scratch"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=3 * WAIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts, cores = json.loads(done.stdout.splitlines()[-1])
    assert counts == [1] * TASKS
    assert {core.partition("/work/")[0] for core in cores} == {str(spark_home)}
    assert len(set(cores)) == EXECUTORS
    assert stub.script.is_open.is_set(), "they were not at it together"
    assert count_downloads(stub) == {"0.0/vocab.txt": 1}
    vocabulary = assets_dir / NAME / "0.0" / "vocab.txt"
    assert vocabulary.read_bytes() == FILES["vocab.txt"]


# ------------------------------------------------------------------- another node


def test_a_manager_on_a_node_without_its_assets_dir_says_so(
    make_store, assets_dir, tmp_path
):
    make_store(LocalStore)
    ma.StorageProvider().new(write_tree(tmp_path / "source", FILES), NAME)
    pickled = pickle.dumps(ma.AssetsManager())
    assets_dir.rmdir()
    with pytest.raises(ma.ModelkitAssetsError, match=str(assets_dir)):
        pickle.loads(pickled).fetch_asset(NAME)
    assert not assets_dir.exists()

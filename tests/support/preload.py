"""What the server that harness.py forks its children from has imported beforehand."""

import contextlib
import gc
import hashlib  # noqa: F401
import importlib
import shutil  # noqa: F401

import harness  # noqa: F401

for sdk in (
    "boto3.s3.inject",
    "botocore.httpsession",
    "azure.storage.blob",
    "google.cloud.storage",
):
    with contextlib.suppress(ImportError):
        importlib.import_module(sdk)
gc.collect()
gc.freeze()  # so that a child shares these objects' memory, and forks at once

"""Copy one object, or all below a prefix, out of a bucket with obstore in 8 threads.

    python -I obstore_fetch.py http://localhost:9000 bucket prefix target

It checks no digest, and writes no marker: a mark for what Python can reach. It asks for
no ranges, as it refuses those of `rclone serve s3`, whose status is 200.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import S3Store

THREADS = 8


def main(endpoint, bucket, prefix, target):
    options = {"allow_http": True}
    store = S3Store(bucket, endpoint=endpoint, client_options=options)
    names = {prefix: target}
    if target.endswith("/"):  # a folder
        pages = obstore.list(store, prefix)
        listed = [item["path"] for page in pages for item in page]
        names = {name: target + name[len(prefix) + 1 :] for name in listed}
    for folder in {os.path.dirname(path) for path in names.values()}:
        os.makedirs(folder, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda item: fetch(store, *item), names.items()))


def fetch(store, name, path):
    with open(path, "wb", buffering=0) as file:
        for data in obstore.get(store, name).stream():
            file.write(data)


if __name__ == "__main__":
    main(*sys.argv[1:])

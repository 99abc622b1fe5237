"""A driver as anybody may write one: a store in a dict, for as long as the process."""

import errno
import hashlib
import threading


class Driver:
    buckets = {"bucket": {}}
    lock = threading.RLock()

    def __init__(self, bucket, client=None, colour="red"):
        if colour not in ("red", "blue"):
            raise ValueError(f"colour must be red or blue, not {colour!r}")
        self.bucket, self.colour = bucket, colour

    @property
    def objects(self):
        if self.bucket not in self.buckets:
            raise ValueError(f"MODELKIT_STORAGE_BUCKET: there is no bucket {self.bucket!r}")
        return self.buckets[self.bucket]

    def stat_object(self, name):
        data, etag = self.read_object(name)
        return len(data), etag

    def read_object(self, name):
        with self.lock:
            if name not in self.objects:
                raise FileNotFoundError(f"no object {name!r}")
            data = self.objects[name]
        if len(data) > 64 << 20:
            raise OSError(errno.EFBIG, "it is too large to be read at once")
        return data, hashlib.sha256(data).hexdigest()

    def write_object(self, data, name, *, if_match=None):
        with self.lock:
            there = name in self.objects
            etag = self.read_object(name)[1] if there else ""
            if if_match is not None and if_match != etag:
                raise FileExistsError(f"the object {name!r} is there, or has changed")
            self.objects[name] = data
            return self.read_object(name)[1]

    def download_object(self, name, sink, start=0, length=None):
        data = self.read_object(name)[0]
        end = len(data) if length is None else min(len(data), start + length)
        for at in range(start, end, 1 << 20):
            sink.write(data[at : min(end, at + (1 << 20))])

    def upload_object(self, path, name):
        with open(path, "rb") as file:
            self.write_object(file.read(), name)

    def copy_object(self, source, name):
        self.write_object(self.read_object(source)[0], name)

    def iterate_objects(self, prefix):
        with self.lock:
            names = sorted(self.objects)
        yield from (name for name in names if name.startswith(prefix + "/"))

    def delete_object(self, name):
        with self.lock:
            self.objects.pop(name, None)

    def get_object_uri(self, name):
        return f"memory://{self.bucket}/{name}"

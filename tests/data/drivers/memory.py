"""A driver as anybody may write one: a store in a dict, for as long as the process."""

import errno
import hashlib
import threading


class Driver:
    package = ""
    variables = {"MEMORY_COLOUR": ("colour", False)}
    workers = 2
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

    def find(self, name):
        with self.lock:
            if name not in self.objects:
                raise FileNotFoundError(f"no object {name!r}")
            data = self.objects[name]
        return data, hashlib.sha256(data).hexdigest()

    def stat_object(self, name):
        data, etag = self.find(name)
        return len(data), etag

    def read_object(self, name):
        data, etag = self.find(name)
        if len(data) > 64 << 20:
            raise OSError(errno.EFBIG, "it is too large to be read at once")
        return data, etag

    def write_object(self, data, name, *, if_match=None):
        with self.lock:
            etag = self.find(name)[1] if name in self.objects else ""
            if if_match is not None and if_match != etag:
                raise FileExistsError(f"the object {name!r} is there, or has changed")
            self.objects[name] = data
            return self.find(name)[1]

    def iterate_bytes(self, name, start=0, length=None, if_match=None):
        data, etag = self.find(name)
        if if_match not in (None, etag):
            raise FileExistsError(f"the object {name!r} has changed")
        end = len(data) if length is None else min(len(data), start + length)
        for at in range(start, end, 1 << 20):
            yield data[at : min(end, at + (1 << 20))]

    def upload_object(self, path, name, advance, *, if_match=""):
        with open(path, "rb") as file:
            data = file.read()
        advance(len(data))
        self.write_object(data, name, if_match=if_match)

    def copy_object(self, source, name):
        self.write_object(self.find(source)[0], name, if_match="")

    def iterate_objects(self, prefix):
        with self.lock:
            names = sorted(name for name in self.objects if name.startswith(prefix + "/"))
        yield from ((name, *self.stat_object(name)) for name in names)

    def delete_object(self, name):
        with self.lock:
            self.objects.pop(name, None)

    def get_object_uri(self, name):
        return f"memory://{self.bucket}/{name}"

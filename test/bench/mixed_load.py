"""What fills the memory of a client: metadata, small files, cut files, streams, scattered writes, mappings. FOLDER."""
import mmap
import os
import random
import sys

MIB = 1 << 20
root = sys.argv[1]
random.seed(1)


def folder(name):
    path = os.path.join(root, name)
    os.makedirs(path)
    return path


def small(name, count, length):
    """In several writes, as programs make them; then read, and looked at."""
    path = folder(name)
    for number in range(count):
        with open(f"{path}/{number}", "wb", buffering=0) as file:
            for at in range(0, length, 4096):
                file.write(b"s" * min(4096, length - at))
    for number in range(count):
        with open(f"{path}/{number}", "rb") as file:
            file.read()
    for number in range(0, count, 3):
        os.rename(f"{path}/{number}", f"{path}/moved-{number}")


def cut(count):
    path = folder("cut")
    for number in range(count):
        with open(f"{path}/{number}", "wb", buffering=0) as file:
            file.write(b"c" * MIB)
            file.truncate(4096)


def stream(mib):
    path = os.path.join(root, "stream")
    with open(path, "wb", buffering=0) as file:
        for _ in range(mib):
            file.write(b"l" * MIB)
    with open(path, "rb", buffering=0) as file:
        while file.read(MIB):
            pass
    return path


def scattered(path, mib, count):
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            file.seek(random.randrange(mib * MIB))
            file.write(b"r" * random.choice((100, 4096, 12000)))


def mapped(path, mib):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), mib * MIB) as view:
        for page in range(0, mib * MIB, 16384):
            view[page] = 1
        view.flush()


small("tiny", 4000, 300)
small("medium", 4000, 10_000)
cut(700)
large = stream(400)
scattered(large, 200, 8000)
mapped(large, 64)
small("last", 2000, 40_000)

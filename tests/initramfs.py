# SPDX-License-Identifier: MIT
"""Adds files to an initramfs: the kernel unpacks one archive over another. For the tests that put programs of their own into the guest."""


def cpio(files):
    """A cpio archive (newc) of executable files: {name: content}."""
    out = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        fields = (number + 1, 0o100755, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return out


def overlay(base_path, path, sources):
    """The initramfs at base_path with {name in the guest: path here} over it; the kernel wants an archive to begin at a multiple of 4."""
    with open(base_path, "rb") as f:
        base = f.read()
    own = {}
    for name, source in sources.items():
        with open(source, "rb") as f:
            own[name] = f.read()
    with open(path, "wb") as f:
        f.write(base + b"\0" * (-len(base) % 4) + cpio(own))

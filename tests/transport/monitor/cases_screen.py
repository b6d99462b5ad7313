# SPDX-License-Identifier: MIT
"""What a machine's screen shows: the same pictures (guests/screen.S) on QEMU's own emulation and on vitrine, and through VNC."""
import os
import zlib

import rfb
from machine import SECONDS, Machine, report

PICTURES = ["the firmware's text", "text in all colours", "256 colours", "16 colours in planes", "a linear frame buffer", "a part of it changed"]


def screens(setting, name, run, has_vnc):
    """The pictures as (width, height, RGB), and for each whether VNC shows the same."""
    vnc = os.path.join(setting.folder, name + ".vnc")
    options = ["-M", "pc", "-m", "32", "-vga", "std", "-drive", "if=ide,format=raw,snapshot=on,file=" + os.path.join(setting.build, "tests/transport/screen")]
    pictures, same = [], []
    with Machine(setting.folder, run, options + (["-vnc", "unix:" + vnc] if has_vnc else [])) as m:
        for n in range(len(PICTURES)):
            m.con.find(b"%d" % n)
            path = os.path.join(m.folder, "screen.ppm")
            m.call("screendump", filename=path)
            pictures.append(rfb.read_ppm(path))
            if has_vnc:
                same.append(rfb.picture(vnc, SECONDS) == pictures[-1])
            m.call("send-key", keys=[{"type": "qcode", "data": "a"}])
    return pictures, same


def screen(setting, name):
    judge, _ = screens(setting, name + ".tcg", ["qemu-system-x86_64", "-accel", "tcg"], False)
    ours, same = screens(setting, name, setting.run, True)
    report(len(set(judge)) == len(PICTURES), name + ": the pictures differ from each other")
    for what, a, b, is_same in zip(PICTURES, judge, ours, same):
        report(a == b, "%s: %s as on QEMU's own emulation" % (name, what), "%dx%d, %#x; %dx%d, %#x" % (*a[:2], zlib.crc32(a[2]), *b[:2], zlib.crc32(b[2])))
        report(is_same, "%s: %s through VNC" % (name, what))


CASES = [("screen", screen)]

# SPDX-License-Identifier: MIT
"""Fetches one picture from a VNC server as a viewer that knows nothing but raw rectangles (facts: RFC 6143), and reads the PPM files of `screendump`."""
import socket
import struct


def exactly(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise OSError("the VNC server closed the connection")
        data += more
    return data


def picture(path, seconds):
    """(width, height, bytes of RGB)"""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(seconds)
        s.connect(path)
        s.sendall(exactly(s, 12))  # its version is ours
        kinds = exactly(s, exactly(s, 1)[0])
        if 1 not in kinds:
            raise OSError("the VNC server wants authentication")
        s.sendall(b"\1")
        if exactly(s, 4) != bytes(4):
            raise OSError("the VNC server refuses")
        s.sendall(b"\1")
        width, height = struct.unpack(">HH", exactly(s, 4))
        exactly(s, 16)
        exactly(s, struct.unpack(">I", exactly(s, 4))[0])
        # 32 bits, true colour: red, green, blue at bits 0, 8, 16 of a little-endian word
        s.sendall(struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16))
        s.sendall(struct.pack(">BxHi", 2, 1, 0))
        s.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        out, left = bytearray(3 * width * height), width * height
        while left > 0:
            if exactly(s, 1) != b"\0":
                raise OSError("the VNC server says something else")
            for _ in range(struct.unpack(">xH", exactly(s, 3))[0]):
                x, y, w, h, encoding = struct.unpack(">HHHHi", exactly(s, 12))
                if encoding:
                    raise OSError("the VNC server uses encoding %d" % encoding)
                for row in range(h):
                    line = exactly(s, 4 * w)
                    at = 3 * ((y + row) * width + x)
                    for colour in range(3):
                        out[at + colour:at + 3 * w:3] = line[colour::4]
                left -= w * h
        return width, height, bytes(out)


def read_ppm(path):
    """(width, height, bytes of RGB)"""
    with open(path, "rb") as f:
        magic, size, depth, data = f.read().split(b"\n", 3)
    if magic != b"P6" or depth != b"255":
        raise OSError("%s is no picture of the form P6" % path)
    width, height = map(int, size.split())
    return width, height, data

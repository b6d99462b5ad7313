# SPDX-License-Identifier: MIT
"""A small client of the GDB remote serial protocol over a machine.Stream (facts: GDB manual, appendix "Remote Protocol")."""
import re

from machine import Wrong

# The order of the registers in QEMU's description of x86-64.
GENERAL = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"] + ["r%d" % n for n in range(8, 16)] + ["rip"]
SOFTWARE, HARDWARE, WRITE, ACCESS = 0, 1, 2, 4


class Rsp:
    def __init__(self, stream):
        self.stream, self.at = stream, 0

    def send(self, text):
        data = text.encode()
        self.stream.send(b"$" + data + b"#%02x" % (sum(data) & 255))

    def receive(self):
        match = self.stream.find(rb"\$((?:[^#])*)#([0-9a-f]{2})", self.at)
        self.at = match.end()
        if sum(match[1]) & 255 != int(match[2], 16):
            raise Wrong("gdb stub: wrong check sum")
        self.stream.send(b"+")
        return match[1].decode()

    def ask(self, text):
        self.send(text)
        return self.receive()

    def must(self, text):
        answer = self.ask(text)
        if answer != "OK":
            raise Wrong("gdb stub: %s is answered with '%s'" % (text, answer))

    def insert(self, kind, address, size=1):
        self.must("Z%d,%x,%x" % (kind, address, size))

    def remove(self, kind, address, size=1):
        self.must("z%d,%x,%x" % (kind, address, size))

    def halt(self):
        """Stops the machine as Ctrl-C does."""
        self.stream.send(b"\x03")
        return self.receive()

    def go(self):
        """Continues without waiting; receive() gives why it stops."""
        self.send("vCont;c")

    def step(self, thread):
        return self.ask("vCont;s:%s" % thread)

    @staticmethod
    def thread_of(stop):
        match = re.match(r"T[0-9a-f]{2}.*thread:([^;]+);", stop)
        if not match:
            raise Wrong("gdb stub: stopped with '%s'" % stop)
        return match[1]

    def threads(self):
        found, answer = [], self.ask("qfThreadInfo")
        while answer.startswith("m"):
            found += answer[1:].split(",")
            answer = self.ask("qsThreadInfo")
        return found

    def select(self, thread):
        self.must("Hg%s" % thread)

    def raw_registers(self):
        return bytes.fromhex(self.ask("g"))

    def registers(self):
        raw = self.raw_registers()
        return {name: int.from_bytes(raw[8 * i:8 * i + 8], "little") for i, name in enumerate(GENERAL)}

    def set_register(self, name, value):
        """By the whole block, as old clients do."""
        raw, i = bytearray(self.raw_registers()), GENERAL.index(name)
        raw[8 * i:8 * i + 8] = value.to_bytes(8, "little")
        self.must("G" + raw.hex())

    def memory(self, address, size):
        answer = self.ask("m%x,%x" % (address, size))
        if answer.startswith("E"):
            raise Wrong("gdb stub: no memory at %#x: %s" % (address, answer))
        return bytes.fromhex(answer)

    def set_memory(self, address, data):
        self.must("M%x,%x:%s" % (address, len(data), data.hex()))

# SPDX-License-Identifier: MIT
"""What tests of KVMI share: a tool that listens as libkvmi does, and what the bytes mean. The script that imports it has the build folder as its first argument."""
import hashlib
import os
import random
import socket
import struct

from inspected import BUILD, GUEST, NAME, SECONDS, SOURCE, VITRINE, Guest, ask, fetch_guest, outcome, report  # noqa: F401, for who imports all of this

KEY = "a key of the tests"
PAGES = (256 << 20) // 4096

EVENT_REPLY, EVENT, GET_VERSION, CHECK_COMMAND, CHECK_EVENT, GET_GUEST_INFO, GET_VCPU_INFO, PAUSE_VCPU, CONTROL_VM_EVENTS = range(9)
GET_REGISTERS, SET_REGISTERS, GET_CPUID, GET_XSAVE, READ_PHYSICAL, WRITE_PHYSICAL, INJECT_EXCEPTION = range(13, 20)
GET_MTRR_TYPE, CONTROL_CMD_RESPONSE, GET_MAX_GFN, GET_NEXT_AVAILABLE_GFN = 23, 27, 29, 31
TRANSLATE_GVA, GET_XCR, SET_XSAVE, QUERY_PHYSICAL = 35, 37, 38, 39
VM_COMMANDS = {2, 3, 4, 5, 8, 17, 18, 20, 21, 24, 25, 26, 27, 29, 31, 39, 43, 44}
VCPU_COMMANDS = {6, 7, 9, 10, 11, 13, 14, 15, 16, 19, 23, 32, 34, 35, 37, 38, 41, 42, 60, 63}
REFUSED = {12, 22, 28, 30, 33, 36}
EVENTS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13}
WITH_DATA = {2, 5, 6, 13, 15, 16, 17, 20, 23, 25, 29, 31, 34, 35, 37, 39, 43}
UNHOOK, CREATE_VCPU, PAUSE_EVENT = 0, 9, 10
ENOENT, E2BIG, EBUSY, EINVAL, EOPNOTSUPP, ENOSYS = -2, -7, -16, -22, -95, -1000
GPRS = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split()


class Closed(Exception):
    pass


class Tool:
    """Listens as libkvmi does: a backlog of nothing, one machine."""

    def __init__(self, path):
        self.path, self.fd = path, None
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(0)
        self.listener.settimeout(SECONDS)

    def accept(self):
        self.leave()
        self.fd = self.listener.accept()[0]
        self.fd.settimeout(60)
        self.sequence, self.events = random.randrange(1 << 31), []
        self.hello = self.receive(104)

    def answer(self, key=None, more=b""):
        self.fd.sendall(struct.pack("<I", 24 + len(more)) + (hashlib.sha1(key.encode()).digest() if key else bytes(20)) + more)

    def meet(self):
        """The first in the queue may have waited too long for an answer, and gone."""
        for _ in range(10):
            try:
                self.accept()
                self.answer(KEY)
                self.data(GET_VERSION)
                return
            except (Closed, BrokenPipeError):
                pass
        raise SystemExit("not ok - the machine comes again")

    def leave(self):
        if self.fd:
            self.fd.close()
        self.fd = None

    def receive(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.fd.recv(n - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise Closed()
            data += more
        return data

    def message(self):
        ident, size, sequence = struct.unpack("<HHI", self.receive(8))
        return ident, sequence, self.receive(size)

    def pack(self, ident, payload=b"", vcpu=None):
        self.sequence += 1
        data = (b"" if vcpu is None else struct.pack("<HHI", vcpu, 0, 0)) + payload
        return struct.pack("<HHI", ident, len(data), self.sequence) + data

    def send(self, data):
        try:
            self.fd.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed()

    def reply(self, ident):
        """The next that is no event: it answers the last command that was packed."""
        while True:
            got, sequence, data = self.message()
            if got != EVENT:
                break
            self.events.append((sequence, data))
        error, zero = struct.unpack_from("<iI", data)
        if (got, sequence, zero) != (ident, self.sequence, 0) or (error and len(data) != 8):
            raise SystemExit("not ok - a reply to command %d # %r" % (ident, (got, sequence, self.sequence, data)))
        return error, data[8:]

    def call(self, ident, payload=b"", vcpu=None):
        self.send(self.pack(ident, payload, vcpu))
        return self.reply(ident)

    def data(self, ident, payload=b"", vcpu=None):
        error, data = self.call(ident, payload, vcpu)
        if error:
            raise SystemExit("not ok - command %d # error %d" % (ident, error))
        return data

    def error(self, ident, payload=b"", vcpu=None):
        error, data = self.call(ident, payload, vcpu)
        return "data" if data else error

    def number(self, ident, payload=b"", vcpu=None):
        data = self.data(ident, payload, vcpu)
        return struct.unpack("<Q", data)[0] if len(data) == 8 else data

    def event(self):
        if not self.events:
            ident, sequence, data = self.message()
            if ident != EVENT:
                raise SystemExit("not ok - an event # message %d" % ident)
            self.events.append((sequence, data))
        return self.events.pop(0)

    def answer_event(self, event, action=0, vcpu=None, number=None, sequence=None, more=b""):
        about, = struct.unpack_from("<H", event[1], 2)
        payload = struct.pack("<HHIBBHI", about if vcpu is None else vcpu, 0, 0, action, event[1][4] if number is None else number, 0, 0) + more
        self.send(struct.pack("<HHI", EVENT_REPLY, len(payload), event[0] if sequence is None else sequence) + payload)

    def pause(self, vcpu, wait=1):
        assert self.error(PAUSE_VCPU, struct.pack("<BBHI", wait, 0, 0, 0), vcpu) == 0
        return self.event()

    def is_closed(self):
        """True once the other side ended the connection; False if it still answers."""
        try:
            return not self.call(GET_VERSION)
        except Closed:
            return True


# ---- what the bytes mean ----

def segment_of(data):
    base, limit, selector, kind, present, dpl, db, s, l, g, avl, unusable, pad = struct.unpack("<QIH10B", data)
    return {"base": base, "limit": limit, "selector": selector, "attributes": kind | s << 4 | dpl << 5 | present << 7 | avl << 12 | l << 13 | db << 14 | g << 15, "pad": pad}


def registers_of(regs, sregs):
    out = dict(zip(GPRS, struct.unpack("<18Q", regs)))
    for i, name in enumerate("cs ds es fs gs ss tr ldtr".split()):
        out[name] = segment_of(sregs[24 * i:24 * i + 24])
    for i, name in enumerate(("gdtr", "idtr")):
        out[name + "_base"], out[name + "_limit"], *pads = struct.unpack_from("<QH3H", sregs, 192 + 16 * i)
        assert pads == [0, 0, 0]
    out.update(zip("cr0 cr2 cr3 cr4 cr8 efer apic_base".split(), struct.unpack_from("<7Q", sregs, 224)))
    assert sum(bin(bits).count("1") for bits in struct.unpack_from("<4Q", sregs, 280)) <= 1  # an interrupt on its way
    return out


def number_of(value):
    return int(value, 0) if isinstance(value, str) else value


def same_as_control(mine, theirs):
    """[] or what differs from `vitrine regs --json`."""
    wrong = []
    for name, value in mine.items():
        if isinstance(value, dict):
            other = theirs["segments"][name] if "segments" in theirs else theirs[name]
            wrong += ["%s.%s" % (name, k) for k in ("base", "limit", "selector", "attributes") if k in other and number_of(other[k]) != value[k]]
            wrong += [name + ".pad"] if value["pad"] else []
        elif number_of(theirs[name]) != value:
            wrong.append(name)
    return wrong


def mtrr_type(def_type, fixed, pairs, gpa):
    """SDM vol. 3A, "Memory Cache Control"."""
    if not def_type >> 11 & 1:
        return 0
    if def_type >> 10 & 1 and gpa < 0x100000:
        index = gpa >> 16 if gpa < 0x80000 else 8 + (gpa - 0x80000 >> 14) if gpa < 0xC0000 else 24 + (gpa - 0xC0000 >> 12)
        return fixed[index // 8] >> 8 * (index % 8) & 255
    kinds = {base & 255 for base, mask in pairs if mask >> 11 & 1 and (gpa ^ base) & mask & ~0xFFF == 0}
    return def_type & 255 if not kinds else kinds.pop() if len(kinds) == 1 else 4 if kinds == {4, 6} else 0

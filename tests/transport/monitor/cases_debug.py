# SPDX-License-Identifier: MIT
"""QEMU's gdb stub on a guest kernel at work: breakpoints in its code, single steps, watchpoints, and registers and memory changed under it."""
import re

from machine import Wrong, report
from rsp import ACCESS, HARDWARE, SOFTWARE, WRITE, Rsp

USER_END = 1 << 47

# Code, and where it goes on (as an offset from its begin) after each step: instructions that the engine serves in different ways. What stands in `checks` after the last.
CODE = [
    ("48c7c034120000", None),  # mov $0x1234, %rax
    ("48ffc0", None),          # inc %rax
    ("50", None),              # push %rax
    ("5b", None),              # pop %rbx
    ("eb02", "+2"),            # jmp, over a ud2
    ("0f0b", "never"),
    ("f390", None),            # pause
    ("48c7c103000000", None),  # mov $3, %rcx
    ("f3a4", "thrice"),        # rep movsb: a trap after each turn
    ("e800000000", None),      # call the next one
    ("415a", None),            # pop %r10
    ("b800000000", None),      # mov $0, %eax
    ("0fa2", None),            # cpuid
    ("0f20d8", None),          # mov %cr3, %rax
    ("0f20c6", None),          # mov %cr0, %rsi
]


class Guest:
    """A machine with the debugger attached, and the agent calling getppid on its CPU."""

    def __init__(self, m):
        self.m = m
        self.function, self.variable = m.symbol("__x64_sys_getppid"), m.symbol("panic_timeout")
        self.elsewhere = m.symbol("__x64_sys_reboot")
        self.g = Rsp(m.attach_debugger())
        self.g.thread_of(self.g.receive())  # it stops the machine and says so
        self.g.ask("qSupported:swbreak+;hwbreak+")

    def stop_at(self, kind, address, size=1):
        """Continues until a break- or watchpoint, which is removed then; the thread and the reason."""
        self.g.insert(kind, address, size)
        self.g.go()
        stop = self.g.receive()
        thread = self.g.thread_of(stop)
        self.g.select(thread)
        self.g.remove(kind, address, size)
        return thread, stop


def breakpoints(d, name):
    number = d.m.begin("calls 100")
    for kind, what in ((SOFTWARE, "software"), (HARDWARE, "hardware")):
        places, moved = [], []
        for _ in range(5):
            thread, _ = d.stop_at(kind, d.function)
            places.append(d.g.registers()["rip"])
            d.g.step(thread)
            moved.append(d.g.registers()["rip"])
        report(all(p == d.function for p in places), "%s: %s breakpoint in the kernel, five times" % (name, what), " ".join(map(hex, places)))
        report(all(0 < p - d.function <= 15 for p in moved), "%s: one step behind the %s breakpoint" % (name, what), " ".join(map(hex, moved)))
    # A long walk: back to the program by single steps.
    thread, _ = d.stop_at(HARDWARE, d.function)
    steps, here = 0, d.function
    while here > USER_END and steps < 5000:
        d.g.step(thread)
        before, here = here, d.g.registers()["rip"]
        steps += 1
        if here == before:
            raise Wrong("step %d stays at %#x" % (steps, here))
    report(here < USER_END and steps > 10, name + ": single steps lead out of the system call", "%d steps, now at %#x" % (steps, here))
    # The call returns at once, with a number of ours.
    d.stop_at(SOFTWARE, d.function)
    r = d.g.registers()
    d.g.set_register("rax", 4711)
    d.g.set_register("rip", int.from_bytes(d.g.memory(r["rsp"], 8), "little"))
    d.g.set_register("rsp", r["rsp"] + 8)
    d.g.go()
    text = d.m.end(number)
    report("agent: calls odd 1 4711" in text, name + ": registers that are set take effect, just once", text)
    d.g.halt()


def unmet(d, name):
    """A software breakpoint costs nothing where it is not: so many calls by single steps would not end in time."""
    number = d.m.begin("calls 1000000")
    d.g.insert(SOFTWARE, d.elsewhere)
    d.g.go()
    report("odd 0" in d.m.end(number), name + ": a breakpoint that is not met does not slow the guest down")
    d.g.halt()
    d.g.remove(SOFTWARE, d.elsewhere)


def steps(d, name):
    """Known code, put over the function's begin."""
    number = d.m.begin("calls 10")
    thread, _ = d.stop_at(SOFTWARE, d.function)
    raw, first = d.g.raw_registers(), d.g.registers()
    code = bytes.fromhex("".join(c for c, _ in CODE))
    old = d.g.memory(d.function, len(code))
    d.g.set_memory(d.function, code)
    for register in ("rsi", "rdi"):
        d.g.set_register(register, first["rsp"] - 64)
    expected, at = [], d.function
    for hexes, how in CODE:
        at += len(hexes) // 2
        if how == "never":
            continue
        if how == "thrice":
            expected += [at - 2, at - 2]
        expected.append(at + 2 if how == "+2" else at)
    seen = []
    for _ in expected:
        d.g.step(thread)
        seen.append(d.g.registers()["rip"])
    last = d.g.registers()
    report(seen == expected, name + ": steps go instruction by instruction", "%s, not %s" % ([hex(s - d.function) for s in seen], [hex(e - d.function) for e in expected]))
    pop_at = d.function + sum(len(c) // 2 for c, _ in CODE[:CODE.index(("415a", None))])
    cr0 = int(re.search(r"CR0=([0-9a-f]+)", d.m.hmp("info registers"))[1], 16)
    good = (last["rcx"] != 3, last["r10"] == pop_at, last["rdi"] == first["rsp"] - 61, last["rsp"] == first["rsp"], last["rsi"] == cr0)
    report(all(good), name + ": and compute what they should", "%s: %s" % (good, last))
    d.g.set_memory(d.function, old)
    d.g.must("G" + raw.hex())
    d.g.go()
    text = d.m.end(number)
    report("odd 0" in text, name + ": code and registers put back, the guest goes on", text)
    d.g.halt()


def watchpoints(d, name):
    def value():
        return int.from_bytes(d.g.memory(d.variable, 4), "little")

    for kind, word, command, what in ((WRITE, "watch", "write /proc/sys/kernel/panic 77", "write"), (ACCESS, "awatch", "read /proc/sys/kernel/panic", "read"),
                                      (ACCESS, "awatch", "write /proc/sys/kernel/panic 78", "write, seen as access")):
        number = d.m.begin(command)
        thread, stop = d.stop_at(kind, d.variable, 4)
        match = re.search(r";%s:([0-9a-f]+);" % word, stop)
        report(match and int(match[1], 16) == d.variable, "%s: watchpoint on a %s" % (name, what), stop)
        report(what[0] == "r" or value() == int(command.split()[2]), "%s: comes after the %s" % (name, what), "it is %d" % value())
        d.g.step(thread)
        d.g.go()
        report("/proc" not in d.m.end(number), "%s: the guest goes on after the %s" % (name, what))
        d.g.halt()
    # A write watchpoint lets reads pass.
    number = d.m.begin("read /proc/sys/kernel/panic")
    d.g.insert(WRITE, d.variable, 4)
    d.g.go()
    text = d.m.end(number)
    report("78" in text, name + ": a watchpoint on writes lets reads pass", text)
    d.g.halt()
    d.g.remove(WRITE, d.variable, 4)
    d.g.set_memory(d.variable, (99).to_bytes(4, "little"))
    d.g.go()
    report(d.m.shell("cat /proc/sys/kernel/panic").strip() == "99", name + ": memory that is set is what the guest reads")
    d.g.halt()


def debugger(cpus):
    def case(setting, name):
        with setting.linux(cpus) as m:
            m.ready()
            m.ask("load %d 2" % cpus)
            d = Guest(m)
            threads = d.g.threads()
            report(len(threads) == cpus, name + ": a thread for each CPU", str(threads))
            breakpoints(d, name)
            steps(d, name)
            d.g.go()
            wrong = m.halt()
            report(not wrong, name + ": the guest has computed right", wrong)
            d.g.halt()
            unmet(d, name)
            watchpoints(d, name)
            d.g.must("D")
            report(m.lives(), name + ": the guest goes on without the debugger")

    return case


CASES = [("debugger_1", debugger(1)), ("debugger_2", debugger(2))]

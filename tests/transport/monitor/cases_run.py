# SPDX-License-Identifier: MIT
"""stop, cont, reset, power-off, NMI and what the monitor shows of the guest."""
import re
import time

from machine import report, until


def stop_and_cont(setting, name):
    with setting.linux(2) as m:
        m.ready()
        m.ask("load 2 4")
        clock = m.clock()
        for _ in range(5):
            m.call("stop")
            m.call("cont")
        report(m.status() == "running", name + ": runs after it")
        before = m.steps()
        until(lambda: all(b > a for a, b in zip(before, m.steps())), "every vCPU to go on")
        report(True, name + ": every vCPU goes on")
        m.call("stop")
        number, start = m.begin("state"), len(m.con.data)
        time.sleep(0.5)
        report(m.status() == "paused" and len(m.con.data) == start, name + ": nothing runs while it is stopped")
        m.call("cont")
        m.end(number)
        later = m.clock()
        report(all(0 < b - a < 60 for a, b in zip(clock[:2], later[:2])) and later[2] > clock[2], name + ": the guest's clocks go on", "%s, then %s" % (clock, later))
        wrong = m.halt()
        report(not wrong, name + ": the guest computes right", wrong)


def paused_time(setting, name):
    """kvmclock stands still while the machine is stopped, as on the kernel's KVM."""
    with setting.linux(1) as m:
        m.ready()
        first, began = m.clock(), time.monotonic()
        m.call("stop")
        time.sleep(3)
        m.call("cont")
        second, ended = m.clock(), time.monotonic()
        passed, real = second[0] - first[0], ended - began
        report(0 < passed < real - 2.5, name + ": the clock does not count it", "%.3f s in the guest, %.3f s outside" % (passed, real))
        time.sleep(1)
        third = m.clock()
        report(third[0] - second[0] >= 1, name + ": and runs again", "%.3f s" % (third[0] - second[0]))


def reset(setting, name):
    with setting.linux(2) as m:
        m.ready()
        for turn in range(3):
            start, mark = len(m.con.data), m.mark()
            if turn == 1:
                m.ask("load 2 4")
            m.call("system_reset")
            m.event("RESET", mark)
            m.ready(start)
        text = m.shell("grep -c ^processor /proc/cpuinfo")
        report(text.strip() == "2" and m.lives(), name + ": the guest boots again, three times, with both CPUs", text)
        # The guest's own: through the keyboard controller or the chip set.
        start = len(m.con.data)
        m.begin("sh reboot -f")
        m.ready(start)
        report(m.lives(), name + ": the guest resets itself")
        mark = m.mark()
        m.begin("sh poweroff -f")
        m.event("SHUTDOWN", mark)
        report(m.child.wait(60) == 0, name + ": the guest powers off and QEMU ends with 0")


def power_button(setting, name):
    with setting.linux(1) as m:
        m.ready()
        m.shell("while ! [ -c /dev/input/event0 ]; do sleep 0.1; done; sleep 0.3")
        mark = m.mark()
        m.call("system_powerdown")
        m.event("POWERDOWN", mark)
        m.event("SHUTDOWN", mark)
        report(m.child.wait(60) == 0, name + ": the guest heeds it")


def nmi(setting, name):
    # By itself Linux unmasks the pin on the first CPU only.
    with setting.linux(2, append="apic_extnmi=all") as m:
        m.ready()

        def counts():
            return [int(n) for n in re.findall(r"\d+", m.shell("grep NMI: /proc/interrupts"))]

        before = counts()
        for _ in range(3):
            m.call("inject-nmi")
            m.lives()
        after = counts()
        report(all(b >= a + 3 for a, b in zip(before, after)) and len(after) == 2, name + ": every CPU gets each", "%s, then %s" % (before, after))


def info(setting, name):
    # With five levels of page tables `info mem` of QEMU 7.2 takes a minute and shows nothing, whoever runs the guest.
    with setting.linux(2, "-cpu", "host,la57=off") as m:
        m.ready()
        banner = m.symbol("linux_banner")
        m.call("stop")
        text = m.hmp("info registers -a")
        report(len(re.findall(r"^RAX=[0-9a-f]{16} RBX=", text, re.M)) == 2 and "CR0=8005" in text and re.search(r"EFER=0000000000000d01", text), name + " registers", text)
        text = m.hmp("x/8cb %#x" % banner)
        report("'L' 'i' 'n' 'u' 'x' ' ' 'v' 'e'" in text, name + ": x reads the guest's memory", text)
        physical = re.search(r"gpa: (0x[0-9a-f]+)", m.hmp("gva2gpa %#x" % banner))
        text = m.hmp("xp/8cb %s" % physical[1]) if physical else ""
        report("'L' 'i' 'n' 'u' 'x' ' ' 'v' 'e'" in text, name + ": gva2gpa and xp find it too", text)
        text = m.hmp("info lapic")
        report(re.search(r"local APIC state for CPU", text) and re.search(r"LVTT\s+0x[0-9a-f]+.*\b(tsc-deadline|one-shot|periodic)", text), name + " lapic", text)
        text = m.hmp("info mem")
        report(re.search(r"^ffffffff81[0-9a-f]+-", text, re.M), name + " mem", text[:400])
        text = m.hmp("info pic")
        report("irr=" in text and "ioapic" in text.lower(), name + " pic", text[:400])
        m.call("cont")
        report(m.lives(), name + ": the guest goes on")


CASES = [("stop_cont", stop_and_cont), ("paused_time", paused_time), ("reset", reset), ("power_button", power_button), ("nmi", nmi), ("info", info)]

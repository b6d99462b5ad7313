# SPDX-License-Identifier: MIT
"""Memory that comes and goes: the balloon, hot-plugged memory; and CPUs that come while the guest runs."""
import os
import re
import subprocess

from machine import SECONDS, Wrong, report, until

MIB = 1 << 20


def free_kib(m):
    return int(re.search(r"MemFree: +(\d+)", m.shell("grep MemFree /proc/meminfo"))[1])


def resident_kib(m):
    with open("/proc/%d/status" % m.child.pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])


def fill(m, copies):
    """Uses that many times 16 MiB, and reads them back."""
    each = "for i in $(seq %d); do " % copies
    m.shell("[ -d /m ] || { mkdir /m && mount -t tmpfs -o size=1g none /m; }")
    m.shell("dd if=/dev/urandom of=/m/a bs=1M count=16 2>/dev/null && " + each + "cp /m/a /m/$i || exit 1; done")
    m.shell(each + "cmp /m/a /m/$i || exit 1; done && rm /m/*")


def balloon(setting, name):
    with setting.linux(2, "-device", "virtio-balloon-pci") as m:
        m.ready()
        m.ask("load 2 4 19")
        # Pages that the guest has used and freed go first.
        fill(m, 4)
        used = resident_kib(m)
        for turn, wanted in enumerate((128, 256, 112, 256)):
            m.call("balloon", value=wanted * MIB)
            until(lambda: m.call("query-balloon")["actual"] == wanted * MIB, "the guest to heed the balloon")
            if wanted < 256:
                now = resident_kib(m)
                report(now < used - (64 << 10), "%s: the host gets memory back, %d" % (name, turn // 2 + 1), "%d KiB, then %d" % (used, now))
            else:
                # What comes back was thrown away by QEMU meanwhile: it is used at once, and right.
                fill(m, 4)
                report(True, "%s: memory that is given back works, %d" % (name, turn // 2 + 1))
        wrong = m.halt()
        report(not wrong, name + ": the guest's own memory stays right", wrong)


def reader(setting, m, task):
    """tests/transport/reader.c on the machine's memory, by /dev/memflow."""
    command = [setting.run[0], "run", "--", os.path.join(setting.build, "tests/transport/reader"), task, str(m.child.pid)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def mapping_reader(setting, m, name):
    """One that has mapped all memory that there is now, and waits."""
    r = reader(setting, m, "stay")
    said = r.stdout.readline()
    report(said == "mapped\n", name, said)
    return r


def end_reader(r, name):
    """It goes through all that it has mapped, and writes."""
    said = r.communicate("", timeout=SECONDS)[0]
    report(r.returncode == 0 and "read " in said, name, "status %s, %r" % (r.returncode, said))


def memory(setting, name):
    with setting.linux(2, "-m", "256,slots=4,maxmem=2G", append="memhp_default_state=online") as m:
        m.ready()
        m.ask("load 2 4 19")
        before = free_kib(m)
        early = mapping_reader(setting, m, name + ": a reader maps it before")
        for n in (1, 2):
            m.call("object-add", **{"qom-type": "memory-backend-ram", "id": "mem%d" % n, "size": 256 * MIB})
            m.call("device_add", driver="pc-dimm", id="dimm%d" % n, memdev="mem%d" % n)
            until(lambda: free_kib(m) > before + n * 200 * 1024, "the guest to use the memory")
        report(True, name + ": the guest takes it")
        fill(m, 20)
        report(True, name + ": and fills it and reads it back")
        late = mapping_reader(setting, m, name + ": another one when there is more")
        sizes = [int(n) for n in re.findall(r"^slot \S+ (\d+)", reader(setting, m, "map").communicate(timeout=SECONDS)[0], re.M)]
        report(sum(sizes) >= 768 * MIB, name + ": the later one has the new memory too", str(sizes))
        mark = m.mark()
        m.call("device_del", id="dimm2")
        m.event("DEVICE_DELETED", mark)
        m.call("object-del", id="mem2")
        report(m.lives(), name + ": and gives a part back")
        end_reader(late, name + ": a part of what is mapped goes: no reader is hurt")
        end_reader(early, name + ": nor by what came later")
        report(m.lives(), name + ": nor the machine by readers")
        wrong = m.halt()
        report(not wrong, name + ": the guest's own memory stays right", wrong)


def cpus(setting, name):
    with setting.linux(1, "-smp", "1,maxcpus=3") as m:
        m.ready()
        m.ask("load 1 4")
        for number in (2, 3):
            places = [p for p in m.call("query-hotpluggable-cpus") if "qom-path" not in p]
            if not places:
                raise Wrong("no place for a CPU is left")
            place = min(places, key=lambda p: sorted(p["props"].items()))
            m.call("device_add", driver=place["type"], id="cpu%d" % number, **place["props"])
            path = "/sys/devices/system/cpu/cpu%d/online" % (number - 1)
            m.shell("while ! [ -e %s ]; do sleep 0.1; done; [ $(cat %s) = 1 ] || echo 1 >%s" % (path, path, path))
            text = m.shell("grep -c ^processor /proc/cpuinfo; taskset %x sh -c 'echo $((6 * 7)) on $(cut -d\" \" -f39 /proc/self/stat)'" % (1 << (number - 1)))
            report(text.split()[:2] == [str(number), "42"], "%s: CPU %d computes" % (name, number), text)
        wrong = m.halt()
        report(not wrong, name + ": the first CPU has computed right", wrong)
        m.ask("load 3 2")
        while min(m.steps()) < 1000:
            pass
        wrong = m.halt()
        report(not wrong, name + ": all three compute at once", wrong)
        mark = m.mark()
        m.call("device_del", id="cpu3")
        m.event("DEVICE_DELETED", mark)
        report(m.shell("grep -c ^processor /proc/cpuinfo").strip() == "2", name + ": and one goes again")


CASES = [("balloon", balloon), ("memory_hotplug", memory), ("cpu_hotplug", cpus)]

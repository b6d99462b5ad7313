# SPDX-License-Identifier: MIT
"""What QEMU does with its own process while it has a machine: seccomp filters, another user, a daemon, locked and preallocated memory, children by fork and exec."""
import os
import resource

from machine import Wrong, report, until


def works(m, cpus, name):
    """The guest boots and computes."""
    m.ready()
    m.ask("load %d 4" % cpus)
    before = m.steps()
    wrong = m.halt()
    report(not wrong and len(before) == cpus, name + ": the guest computes right", wrong)


def sandbox(setting, name):
    with setting.linux(2, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny") as m:
        works(m, 2, name)
        mark, start = m.mark(), len(m.con.data)
        m.call("system_reset")
        m.event("RESET", mark)
        m.ready(start)
        with open("/proc/%d/status" % m.child.pid) as f:
            report("Seccomp:\t2" in f.read(), name + ": with QEMU's filter in force")


def locked(setting, name):
    if os.geteuid() and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        print("ok - %s # SKIP this user may not lock so much memory" % name)
        return
    with setting.linux(2, "-overcommit", "mem-lock=on", "-mem-prealloc") as m:
        works(m, 2, name)
        with open("/proc/%d/status" % m.child.pid) as f:
            locked_kib = int(f.read().partition("VmLck:")[2].split()[0])
        report(locked_kib > 256 << 10, name + ": with all memory locked", "%d KiB" % locked_kib)


def daemon(setting, name):
    """Forks after the library has been loaded; and, for root, gives up being root."""
    pid_file = os.path.join(setting.folder, name + ".pid")
    options = ["-daemonize", "-pidfile", pid_file] + (["-runas", "nobody"] if os.geteuid() == 0 else [])
    with setting.linux(2, *options) as m:
        report(m.child.wait(60) == 0, name + ": the first process ends when all is ready")
        with open(pid_file) as f:
            pid = int(f.read())
        works(m, 2, name)
        report(os.geteuid() or os.stat("/proc/%d" % pid).st_uid, name + ": as another user")
        m.call("quit")
        until(lambda: not os.path.exists("/proc/%d" % pid) or open("/proc/%d/stat" % pid).read().rpartition(")")[2].split()[0] == "Z", "the daemon's end", 60)
        report(True, name + ": ends when told to")


def children(setting, name):
    """Children of QEMU write the state of the running machine and read it again."""
    path = os.path.join(setting.folder, name + ".state")
    with setting.linux(2) as m:
        m.ready()
        m.ask("load 2 4")
        before = m.steps()
        m.call("migrate-set-parameters", **{"max-bandwidth": 16 << 30, "downtime-limit": 10000})
        m.call("migrate", uri="exec:cat >" + path)
        until(lambda: m.call("query-migrate").get("status") in ("completed", "failed"), "the end of the migration")
        if m.call("query-migrate")["status"] != "completed":
            raise Wrong("migrate: %s; %s" % (m.call("query-migrate"), m.said()))
        mark = m.mark()
        m.call("cont")
        m.event("RESUME", mark)
        wrong = m.halt()
        report(not wrong, name + ": the guest goes on where it was", wrong)
    with setting.linux(2, "-incoming", "exec:cat " + path) as m:
        m.event("RESUME")
        report(all(a <= b for a, b in zip(before, m.steps())), name + ": the guest goes on from the file")
        wrong = m.halt()
        report(not wrong, name + ": and computes right", wrong)


CASES = [("sandbox", sandbox), ("locked", locked), ("daemon", daemon), ("children", children)]

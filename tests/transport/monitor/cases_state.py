# SPDX-License-Identifier: MIT
"""The machine's whole state goes out and comes in again while the guest computes: savevm and loadvm, and live migration between two QEMUs."""
import os
import re
import subprocess

from machine import Wrong, report, until

# Of guests/stress: whatever lives in registers, debug registers, clocks and timers.
STRESS = "registers float strings watch steps signals clock tsc sleep segments futex counters"


def stress_begin(m, seconds):
    m.shell("stress -s %d -w 4 %s >/tmp/stress 2>&1 &" % (seconds, STRESS))


def stress_end(m, name):
    m.shell("while ! grep -q '^stress summary' /tmp/stress; do sleep 0.2; done")
    text = m.shell("cat /tmp/stress; dmesg -r | grep '^<[0-4]>' || true")
    wrong = [line for line in text.splitlines() if " FAIL" in line or "stall" in line or "lockup" in line or "segfault" in line or "unstable" in line]
    report("stress summary ok" in text and not wrong, name + ": so do registers, clocks, signals and breakpoints of programs", text)


def snapshots(cpus):
    def case(setting, name):
        disk = os.path.join(setting.folder, name + ".qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
        with setting.linux(cpus, "-drive", "if=none,format=qcow2,file=" + disk) as m:
            m.ready()
            m.ask("load %d 4" % cpus)
            stress_begin(m, 6)
            steps = {}
            for tag in ("a", "b"):
                steps[tag] = m.steps()
                said = m.hmp("savevm " + tag)
                if said:
                    raise Wrong("savevm: " + said)
                m.shell("touch /tmp/after_" + tag)
            for tag, files in (("b", ["after_a"]), ("a", []), ("b", ["after_a"])):
                said = m.hmp("loadvm " + tag)
                if said:
                    raise Wrong("loadvm: " + said)
                report(m.status() == "running" and m.shell("cd /tmp; ls | grep after || true").split() == files, "%s: %s is as it was" % (name, tag))
                here = m.steps()
                report(all(a <= b for a, b in zip(steps[tag], here)), "%s: %s computes on from there" % (name, tag), "%s, then %s" % (steps[tag], here))
                before = m.clock()
                after = m.clock()
                report(before[0] < after[0] < before[0] + 60, "%s: %s has a clock that goes on" % (name, tag), "%s, then %s" % (before, after))
            stress_end(m, name)
            wrong = m.halt()
            report(not wrong, name + ": the guest computes right", wrong)

    return case


def picture(m):
    """What the monitor can show of a stopped machine; of the timers only what stands still."""
    text = m.hmp("info registers -a") + "".join(m.hmp("info lapic %d" % n) for n in range(2)) + m.hmp("info pic")
    return re.sub(r"^(TMICT|TSC_DEADLINE|.*\bcurrent_count = ).*$", "", text, flags=re.M)


def same_state(setting, name):
    """A stopped machine looks the same after savevm, some work and loadvm."""
    disk = os.path.join(setting.folder, name + ".qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    with setting.linux(2, "-drive", "if=none,format=qcow2,file=" + disk) as m:
        m.ready()
        m.ask("load 2 2")
        stress_begin(m, 4)
        for turn in range(3):
            m.call("stop")
            m.hmp("savevm x")
            before = picture(m)
            m.call("cont")
            m.steps()
            m.call("stop")
            m.hmp("loadvm x")
            after = picture(m)
            differing = ["%s | %s" % pair for pair in zip(before.splitlines(), after.splitlines()) if pair[0] != pair[1]]
            report(before == after, "%s: registers and interrupt controllers, %d" % (name, turn + 1), "\n".join(differing[:20]))
            m.call("cont")
        stress_end(m, name)
        wrong = m.halt()
        report(not wrong, name + ": the guest computes right", wrong)


# ---- migration ----


def migrate(source, target, path):
    """Moves a running guest; not before some rounds over its memory went by, so that the log of its writes counts."""
    source.call("migrate-set-parameters", **{"downtime-limit": 1, "max-bandwidth": 64 << 20})
    target.call("migrate-incoming", uri="unix:" + path)
    mark = target.mark()
    source.call("migrate", uri="unix:" + path)

    def info():
        answer = source.call("query-migrate")
        if answer.get("status") == "failed":
            raise Wrong("the migration failed: %s; here: %s; there: %s" % (answer.get("error-desc"), source.said(), target.said()))
        return answer

    until(lambda: info().get("ram", {}).get("dirty-sync-count", 0) >= 3 or info()["status"] == "completed", "three rounds over the memory")
    if info()["status"] != "completed":
        source.call("migrate-set-parameters", **{"downtime-limit": 10000, "max-bandwidth": 16 << 30})
    until(lambda: info()["status"] == "completed", "the end of the migration")
    target.event("RESUME", mark)
    return info()["ram"]


def migration(cpus, hops, options=(), accel="kvm"):
    def case(setting, name):
        run = setting.run[:-1] + [accel]
        source = setting.linux(cpus, *options, run=run)
        source.__enter__()
        try:
            source.ready()
            source.ask("load %d 8" % cpus)
            stress_begin(source, 8)
            for hop in range(hops):
                steps, clock = source.steps(), source.clock()
                target = setting.linux(cpus, "-incoming", "defer", *options, run=run)
                target.__enter__()
                try:
                    ram = migrate(source, target, os.path.join(setting.folder, "%s.%d" % (name, hop)))
                finally:
                    source.__exit__()
                    source = target
                here, later = source.steps(), source.clock()
                report(all(a <= b for a, b in zip(steps, here)), "%s: move %d: computes on" % (name, hop + 1), "%s, then %s" % (steps, here))
                report(ram["dirty-sync-count"] >= 3, "%s: move %d: in several rounds" % (name, hop + 1), str(ram))
                report(clock[0] < later[0] < clock[0] + 60, "%s: move %d: the clock goes on" % (name, hop + 1), "%s, then %s" % (clock, later))
            stress_end(source, name)
            wrong = source.halt()
            report(not wrong, name + ": the guest's memory is right after %d moves" % hops, wrong)
        except Wrong:
            source.show()
            raise
        finally:
            source.__exit__()

    return case


CASES = [("snapshot_1", snapshots(1)), ("snapshot_2", snapshots(2)), ("same_state", same_state), ("migration_1", migration(1, 2)), ("migration_2", migration(2, 4)),
         ("migration_ring", migration(2, 2, accel="kvm,dirty-ring-size=4096"))]

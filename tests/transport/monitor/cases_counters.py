# SPDX-License-Identifier: MIT
"""What the monitor learns of the vCPUs' counters, and machine checks that it raises."""
import os

from machine import Machine, report, until


def counters(answer):
    return {row["name"]: row["value"] for row in answer[0]["stats"]}


def statistics(setting, name):
    with setting.linux(2) as m:
        m.ready()
        cpus = [cpu["qom-path"] for cpu in m.call("query-cpus-fast")]

        def of(cpu):
            return counters(m.call("query-stats", target="vcpu", vcpus=[cpu]))

        schema = {row["name"]: row for part in m.call("query-stats-schemas") for row in part["stats"] if part["target"] == "vcpu"}
        before = [of(cpu) for cpu in cpus]
        report(all(set(b) == set(schema) for b in before), name + ": every vCPU has the counters of the schema", "%s, %s" % (before, schema))
        report(schema["halt_wait_ns"]["exponent"] == -9 and schema["blocking"]["type"] == "instant", name + ": the schema says what they are", str(schema))
        report(all(b["exits"] and b["irq_injections"] and b["halt_exits"] for b in before), name + ": a boot makes exits", str(before))
        m.shell("cat /proc/interrupts >/dev/null")
        until(lambda: of(cpus[0])["io_exits"] + of(cpus[1])["io_exits"] > before[0]["io_exits"] + before[1]["io_exits"], "output on the console in io_exits")
        report(True, name + ": they count on")
        report("remote_tlb_flush" in counters(m.call("query-stats", target="vm")), name + ": so has the VM")
        wrong = [k for k, v in before[0].items() if v > of(cpus[0])[k] and k != "blocking"]
        report(not wrong, name + ": none goes back", str(wrong))


def machine_check(setting, name):
    firmware = os.path.join(setting.build, "tests/transport/mce")
    with Machine(setting.folder, setting.run, ["-M", "pc", "-cpu", "host", "-m", "16", "-bios", firmware]) as m:
        m.con.find(b"mce: ready")
        said = m.hmp("mce 0 9 0x8c00000000000134 0 0x5678 0x8c")
        report(not said, name + ": a corrected one is taken", said)
        said = m.hmp("mce 0 9 0xbe00000000000134 5 0x12345678 0x8c")
        report(not said, name + ": an uncorrected one is taken", said)
        match = m.con.find(rb"mce: (\w{16}) (\w{16}) (\w{16}) (\w{16})\n")
        seen = [int(word, 16) for word in match.groups()]
        lost = 1 << 62  # the corrected one
        report(seen == [5, 0xbe00000000000134 | lost, 0x12345678, 0x8c], name + ": its handler sees it", " ".join("%#x" % n for n in seen))


CASES = [("statistics", statistics), ("machine_check", machine_check)]

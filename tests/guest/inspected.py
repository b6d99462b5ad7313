# SPDX-License-Identifier: MIT
"""What the tests that look into a guest share: a Debian kernel on vitrine whose shell is on a pipe, and the commands as a user gives them. The script that imports it has the build folder as its
first argument."""
import json
import os
import re
import signal
import subprocess
import sys
import time

BUILD = os.path.abspath(sys.argv[1])
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUEST = os.path.join(BUILD, "guest")
VITRINE = os.path.join(BUILD, "vitrine")
SECONDS = float(os.environ.get("VITRINE_BOOT_SECONDS", "240"))
NAME = "%s-%d" % (os.path.basename(sys.argv[0]).replace("run-", ""), os.getpid())
INITRD = os.path.join(GUEST, "initramfs.gz")
outcome = {"failed": False}


def report(claim, name, why=""):
    outcome["failed"] |= not claim
    if why and not claim:
        print("# %s: %s" % (name, why))
    print("%s - %s" % ("ok" if claim else "not ok", name), flush=True)


def skipped(name, why):
    print("ok - %s # SKIP %s" % (name, why), flush=True)


def call(*arguments, data=None):
    run = subprocess.run([VITRINE, *arguments], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SECONDS)
    return run.returncode, run.stdout, run.stderr.decode(errors="replace")


def ask(*arguments):
    status, out, said = call(*arguments, "--json")
    if status:
        raise SystemExit("# vitrine %s: status %d, %s\nnot ok - %s answers" % (" ".join(arguments), status, said, arguments[0]))
    return json.loads(out)


def number(text):
    return int(text, 16)


def fetch_guest():
    """Ends the test as skipped if there is no kernel to boot."""
    fetch = subprocess.run([os.path.join(SOURCE, "tools/fetch-guest"), GUEST], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if fetch.returncode:
        print("no guest to boot: " + (fetch.stdout.strip().splitlines() or ["tools/fetch-guest failed"])[-1])
        sys.exit(77)


def boot_command(initrd=INITRD):
    return [VITRINE, "boot", os.path.join(GUEST, "vmlinuz"), "--initrd", initrd, "--append", "quiet", "--cpus", "2", "--mem", "256M"]


class Guest:
    """Its shell is on a pipe; what it says is collected as it comes. Options overrule those of boot_command."""

    def __init__(self, folder, *options, initrd=INITRD, name=NAME):
        self.name = name
        self.console = open(os.path.join(folder, "console-%s-%d" % (name, len(os.listdir(folder)))), "w+b")
        command = boot_command(initrd) + ["--name", name, *options]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.console, stderr=subprocess.STDOUT, start_new_session=True)
        self.asked = 0

    def text(self):
        with open(self.console.name, "rb") as f:
            return f.read().decode(errors="replace").replace("\r", "")

    def wait_for(self, pattern):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.child.poll() is None:
            match = re.search(pattern, self.text(), re.M)
            if match:
                return match
            time.sleep(0.02)
        print("".join("# console: %s\n" % line for line in self.text().splitlines()[-30:]), end="")
        raise SystemExit("not ok - the guest says %s" % pattern)

    def say(self, line):
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def tell(self, command):
        """What a shell command in the guest prints, its last line."""
        self.asked += 1
        self.say('echo "told %d: $(%s)"' % (self.asked, command))
        return self.wait_for(r"^told %d: (.*)\n" % self.asked)[1]

    def goes_on(self):
        return self.tell("echo $((6 * 7))") == "42"

    def end(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


def moves(vcpu_info_counter):
    """True once the counter went on, False after a generous wait."""
    before, end = vcpu_info_counter(), time.monotonic() + 60
    while time.monotonic() < end:
        if vcpu_info_counter() != before:
            return True
        time.sleep(0.02)
    return False

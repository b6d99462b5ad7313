# SPDX-License-Identifier: MIT
"""A QEMU under `vitrine run` for the tests of its management functions: its monitor (QMP, and HMP through it) and its serial console on unix sockets, and guests/agent.c on the
latter. Everything that waits has a limit of SECONDS."""
import json
import os
import re
import socket
import subprocess
import threading
import time

SECONDS = float(os.environ.get("VITRINE_BOOT_SECONDS", "240"))
failed = False


class Wrong(Exception):
    """A step did not come to its end; the case is over."""


def report(claim, name, why=""):
    global failed
    failed |= not claim
    if why and not claim:
        print("# %s: %s" % (name, why))
    print("%s - %s" % ("ok" if claim else "not ok", name), flush=True)


def until(condition, what, seconds=SECONDS):
    """Waits until it gives something true, and gives that."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Wrong("waited %d s for %s" % (seconds, what))
        time.sleep(0.02)


class Stream:
    """A connection with QEMU, by a unix socket. The bytes that came are kept."""

    def __init__(self, path):
        self.path = path
        self.data, self.is_over, self.changed = b"", False, threading.Condition()
        self.server = self.socket = None

    def listen(self):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        os.chmod(self.path, 0o777)
        self.server.listen(1)
        self.server.settimeout(SECONDS)

    def accept(self):
        self.socket = self.server.accept()[0]
        self.server.close()
        self.begin()

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.path)
        self.begin()

    def begin(self):
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            try:
                more = self.socket.recv(65536)
            except OSError:
                more = b""
            with self.changed:
                self.data += more
                self.is_over |= not more
                self.changed.notify_all()
            if not more:
                return

    def send(self, data):
        self.socket.sendall(data)

    def find(self, pattern, start=0, seconds=SECONDS):
        """The match of a pattern at or after the byte number start."""
        regex = re.compile(pattern, re.M)
        end = time.monotonic() + seconds
        with self.changed:
            while True:
                match = regex.search(self.data, start)
                if match:
                    return match
                left = end - time.monotonic()
                if self.is_over or left <= 0:
                    raise Wrong("%s before %r came" % ("the end came" if self.is_over else "%d s went by" % seconds, pattern))
                self.changed.wait(left)

    def close(self):
        for s in (self.server, self.socket):
            if s:
                s.close()


class Machine:
    """A running QEMU; to be used in a with statement."""

    serial = 0

    def __init__(self, folder, run, options):
        """run: the command before the options."""
        Machine.serial += 1
        self.folder = os.path.join(folder, str(Machine.serial))
        os.mkdir(self.folder)
        os.chmod(self.folder, 0o777)
        self.stream, command = {}, list(run)
        for name in ("con", "qmp"):
            path = os.path.join(self.folder, name)
            self.stream[name] = Stream(path)
            self.stream[name].listen()
            command += ["-chardev", "socket,id=%s,path=%s" % (name, path)]
        command += ["-display", "none", "-nodefaults", "-no-user-config", "-serial", "chardev:con", "-mon", "chardev=qmp,mode=control"]
        self.con, self.qmp = self.stream["con"], self.stream["qmp"]
        self.log = open(os.path.join(self.folder, "log"), "w+b")
        self.command = command + list(options)
        self.requests = self.qmp_at = self.console_at = 0
        self.child = None

    def __enter__(self):
        self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            self.con.accept()
            self.qmp.accept()
            self.qmp.find(rb"\"QMP\"")
            self.call("qmp_capabilities")
        except (Wrong, OSError) as error:
            self.__exit__()
            raise Wrong("QEMU did not start: %s; it said: %s" % (error, self.said()))
        return self

    def __exit__(self, kind=None, *_):
        if kind:
            self.show()
        self.child.kill()
        self.child.wait()
        for stream in self.stream.values():
            stream.close()

    def said(self):
        with open(self.log.name, errors="replace") as f:
            return f.read()[-2000:]

    def show(self):
        text = self.con.data.decode(errors="replace").replace("\r", "")
        print("".join("# console: %s\n" % line for line in text.splitlines()[-25:]) + "".join("# log: %s\n" % line for line in self.said().splitlines()[-15:]), end="", flush=True)

    # ---- monitor ----

    def messages(self):
        """All that the monitor has said so far, whole lines only."""
        whole = self.qmp.data.rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line]

    def call(self, command, **arguments):
        """What the monitor's command returns."""
        self.requests += 1
        number = self.requests
        self.qmp.send(json.dumps({"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}, "id": number}).encode() + b"\n")
        line = self.qmp.find(rb"^(.*\"id\": %d\b.*)\r?\n" % number)
        answer = json.loads(line[1])
        if "error" in answer:
            raise Wrong("%s: %s" % (command, answer["error"]["desc"]))
        return answer["return"]

    def hmp(self, line):
        return self.call("human-monitor-command", **{"command-line": line})

    def mark(self):
        """A place among the events; for event()."""
        return len(self.qmp.data)

    def event(self, name, mark=0):
        return self.qmp.find(rb"^.*\"event\": \"%s\".*$" % name.encode(), mark)

    def status(self):
        return self.call("query-status")["status"]

    def attach_debugger(self):
        """A Stream to QEMU's gdb stub; the machine stops."""
        stream = self.stream["gdb"] = Stream(os.path.join(self.folder, "gdb"))
        said = self.hmp("gdbserver unix:%s,server=on,wait=off" % stream.path)
        if "Waiting for gdb" not in said:
            raise Wrong("gdbserver: " + said)
        stream.connect()
        return stream

    # ---- the guest's agent ----

    def ready(self, start=0):
        """The guest has booted; its console is the agent's."""
        self.console_at = self.con.find(rb"agent: ready\r?\n", start).end()

    def begin(self, line):
        """Sends a request and gives its number, for end()."""
        self.requests += 1
        self.con.send(b"%d %s\n" % (self.requests, line.encode()))
        return self.requests

    def end(self, number, start=None):
        """The answer's text; from the console as it stands behind start."""
        start = self.console_at if start is None else start
        match = self.con.find(rb"^agent: done %d\r?\n" % number, start)
        self.console_at = match.end()
        return self.con.data[start:match.start()].decode(errors="replace").replace("\r", "")

    def ask(self, line):
        return self.end(self.begin(line))

    def steps(self):
        """Of each thread of `load`; errors are the test's end."""
        text = self.ask("state")
        wrong = re.search(r"errors [1-9].*", text)
        if wrong:
            raise Wrong("the guest found its memory wrong: " + wrong[0])
        return [int(n) for n in re.findall(r"agent: thread \d+ steps (\d+)", text)]

    def halt(self):
        """Ends `load`; "" if all is right."""
        text = self.ask("halt")
        if not re.search(r"steps \d+ errors 0", text):
            return "no answer: " + text
        wrong = re.search(r"errors [1-9].*", text)
        return wrong[0] if wrong else ""

    def clock(self):
        """Monotonic and real time in seconds, and the time stamp counter."""
        match = re.search(r"agent: clock (\d+) (\d+) (\d+)", self.ask("clock"))
        return int(match[1]) / 1e9, int(match[2]) / 1e9, int(match[3])

    def shell(self, command):
        """Its output; it must end with 0."""
        text, _, status = self.ask("sh " + command).rpartition("agent: status ")
        if status.strip() != "0":
            raise Wrong("in the guest: '%s' ends with %s: %s" % (command, status.strip(), text))
        return text

    def symbol(self, name):
        """Its address in the guest's kernel."""
        return int(self.shell("grep ' %s$' /proc/kallsyms" % name).split()[0], 16)

    def lives(self):
        """The guest computes still."""
        return "42" in self.shell("echo $((6 * 7))")

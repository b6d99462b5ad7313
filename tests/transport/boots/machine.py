# SPDX-License-Identifier: MIT
"""A QEMU under `vitrine run` with its first serial port, or another console, on our side: what it says is collected while it runs, what is typed goes there. Used by run-boots, from
several threads, one machine each."""
import os
import re
import signal
import subprocess
import threading
import time

SECONDS = float(os.environ.get("VITRINE_BOOT_SECONDS", "240"))


class Machine:
    accel = []  # how QEMU is started, set once by run-boots

    def __init__(self, *arguments, console=("-serial", "stdio")):
        command = Machine.accel + ["-display", "none", "-nodefaults", "-no-user-config", *console]
        self.text, self.is_over = "", False
        self.more = threading.Condition()
        self.child = subprocess.Popen(command + list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.end()

    def _read(self):
        while chunk := self.child.stdout.read1(65536):
            with self.more:
                self.text += chunk.decode("latin-1").replace("\r", "").replace("\0", "")
                self.more.notify_all()
        with self.more:
            self.is_over = True
            self.more.notify_all()

    def wait(self, pattern, seconds=SECONDS):
        """True when the pattern, of at most a few hundred characters, has come; False when it cannot any more or time is up."""
        end, begin, wanted = time.monotonic() + seconds, 0, re.compile(pattern, re.M)
        with self.more:
            while not wanted.search(self.text, begin):
                begin = max(0, len(self.text) - 1000)
                if self.is_over or not self.more.wait(max(0, end - time.monotonic())):
                    return False
        return True

    def type(self, keys):
        try:
            self.child.stdin.write(keys.encode())
            self.child.stdin.flush()
        except BrokenPipeError:
            pass

    def ended(self, seconds=SECONDS):
        """The exit status once the machine has switched itself off, or None."""
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.reader.join(10)
        return status

    def end(self):
        """The exit status of a machine told to end."""
        if self.child.poll() is None:
            self.child.terminate()
        status = self.ended(30)
        if status is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.ended(10)
        return status

    def tail(self):
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", self.text)
        return [line for line in plain.splitlines() if line.strip()][-25:]

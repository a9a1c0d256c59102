"""Start a guest of guest-image under QEMU and run shell scripts in it.

Guest.start() boots one in the background and waits until its agent answers; Guest.run() runs a
script; Guest.stop() ends it (only the process it started). All that is known of a running guest
lies in one folder, so another process can take it up again with Guest(name).
"""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
PORTS = ("ctl", "out", "err")


class LabError(Exception):
    pass


def image():
    """The folder of the guest's kernel, initrd and disk."""
    done = subprocess.run([HERE + "/guest-image"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError("the guest cannot be built")
    return done.stdout.strip()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guest:
    def __init__(self, name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", name):
            raise LabError(f"bad guest name {name!r}")
        base = os.environ.get("ISCSI_LAB_RUN") or f"/tmp/iscsi-lab-{os.getuid()}"
        self.name, self.folder = name, os.path.join(base, name)
        self._process = None  # where it is a child of this one

    def _path(self, item):
        return os.path.join(self.folder, item)

    # What is known of it

    @property
    def info(self):
        try:
            with open(self._path("info.json")) as handle:
                return json.load(handle)
        except FileNotFoundError:
            raise LabError(f"no guest named {self.name}") from None

    def note(self, **facts):
        facts = {**(self.info if os.path.exists(self._path("info.json")) else {}), **facts}
        with open(self._path("info.new"), "w") as handle:
            json.dump(facts, handle, indent=1)
        os.rename(self._path("info.new"), self._path("info.json"))
        return facts

    def pid(self):
        """Its process, or None; never one that merely took over the number."""
        try:
            pid = self.info["pid"]
            with open(f"/proc/{pid}/cmdline", "rb") as handle:
                ours = self._path("console.log").encode() in handle.read()
        except (LabError, KeyError, OSError):
            return None
        return pid if ours else None

    # Life

    def start(
        self,
        role,
        *,
        memory=384,
        cpus=1,
        forwards=(),
        share=None,
        initiator="",
        pcap=None,
        disk=None,
        tied=False,
        timeout=120,
    ):
        """Boot. disk: a copy of the guest's disk, as QEMU names it, that is worked on itself;
        forwards: loopback ports of the host that lead to the same port in the guest;
        tied: the guest dies with this process, however that ends."""
        if self.pid():
            raise LabError(f"guest {self.name} runs already")
        guest = image()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder, mode=0o700)
        begun = time.monotonic()
        words = f"console=ttyS0 quiet panic=-1 mitigations=off lab.role={role}"
        # Linux panics ("IO-APIC + timer doesn't work!") when the ticks that it waits for do not
        # come within some ms, which on a busy machine is no more than QEMU having to wait.
        words += " no_timer_check"
        words += f" lab.name={initiator}" if initiator else ""
        words += " lab.share=1" if share else ""
        argv = self._machine(guest, words, memory, cpus, disk, forwards) + self._channels()
        if share:
            argv += [
                "-virtfs",
                "local,mount_tag=share,security_model=none,path=" + os.path.abspath(share),
            ]
        if tied:
            argv = ["setpriv", "--pdeathsig", "KILL", "--"] + argv
        if pcap:
            argv += ["-object", f"filter-dump,id=dump,netdev=net,file={pcap}"]
        with open(self._path("qemu.log"), "w") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._process = process  # kept, so that it is reaped by stop
        self.note(name=self.name, role=role, pid=process.pid)
        try:
            self._wait_ready(process, begun + timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return self.note(boot_seconds=round(time.monotonic() - begun, 1))

    def _machine(self, guest, words, memory, cpus, disk, forwards):
        """The command that is QEMU with this guest; `words` go to its kernel."""
        net = "user,id=net,ipv6=off" + "".join(
            f",hostfwd=tcp:127.0.0.1:{port}-127.0.0.1:{port}" for port in forwards
        )
        return [
            "qemu-system-x86_64",
            "-name",
            "iscsi-lab-" + self.name,
            "-M",
            "q35",
            "-accel",
            os.environ.get("ISCSI_LAB_ACCEL", "tcg"),
            "-cpu",
            "Nehalem-v1,+rdrand",
            "-smp",
            str(cpus),
            "-m",
            str(memory),
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
            guest + "/vmlinux",
            "-initrd",
            guest + "/initrd",
            "-append",
            words,
            "-serial",
            "file:" + self._path("console.log"),
            "-drive",
            f"file={disk},format=raw,if=virtio,cache=none"
            if disk
            else f"file={guest}/disk.img,format=raw,if=virtio,snapshot=on,cache=unsafe",
            "-netdev",
            net,
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
            "-device",
            "virtio-serial-pci",
        ]

    def _channels(self):
        """Arguments for the pipes by which the guest is told what to do; makes them."""
        argv = []
        for port in PORTS:
            path = self._path(port)
            os.mkfifo(path + ".in")
            os.mkfifo(path + ".out")
            argv += [
                "-chardev",
                f"pipe,id={port},path={path}",
                "-device",
                f"virtserialport,chardev={port},name=lab.{port}",
            ]
        return argv

    def _wait_ready(self, process, deadline):
        heard = b""
        with self._open("ctl.out") as channel:
            while b"READY" not in heard:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LabError("the guest did not come up:\n" + self.log())
                if select.select([channel], [], [], 0.5)[0]:
                    heard += channel.read(4096)

    def log(self):
        """The ends of QEMU's messages and of the guest's console."""
        text = ""
        for item in ("qemu.log", "console.log"):
            try:
                with open(self._path(item), errors="replace") as handle:
                    text += f"-- {item}\n" + handle.read()[-3000:]
            except FileNotFoundError:
                pass
        return text

    def stop(self):
        """Pull its plug: connections just break. Returns whether it ran."""
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
            for turn in range(200):
                if not self.pid():
                    break
                if turn == 100:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return bool(pid)

    # Scripts

    def _open(self, item):
        """One of the guest's pipes; opened both ways, so that opening never waits."""
        return open(self._path(item), "r+b", buffering=0)

    def run(self, script, out=None, err=None, timeout=None):
        """Run a bash script in the guest; its output goes to out and err as it comes (binary
        files, by default this process's own). Returns its exit status."""
        if not self.pid():
            raise LabError(f"guest {self.name} does not run")
        mark = "lab-" + uuid.uuid4().hex
        end = re.compile(b"\0" + mark.encode() + rb" (\d+)\n")
        deadline = time.monotonic() + timeout if timeout else None
        with (
            open(self._path("lock"), "w") as lock,
            self._open("ctl.in") as control,
            self._open("out.out") as from_out,
            self._open("err.out") as from_err,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)  # one script at a time
            body = script.encode() + b"\n"
            control.write(f"RUN {len(body)} {mark}\n".encode() + body)
            sinks = {from_out: out or sys.stdout.buffer, from_err: err or sys.stderr.buffer}
            kept = dict.fromkeys(sinks, b"")
            status = None
            while sinks:
                ready = select.select(list(sinks), [], [], 1)[0]
                for channel in ready:
                    data = kept[channel] + channel.read(1 << 16)
                    found = end.search(data)
                    if found:
                        status = int(found[1])
                        hold = found.start()
                    else:  # hold back what may be the mark's beginning
                        hold = data.rfind(b"\0", max(0, len(data) - 64))
                        hold = len(data) if hold < 0 else hold
                    sinks[channel].write(data[:hold])
                    sinks[channel].flush()
                    kept[channel] = data[hold:]
                    if found:
                        del sinks[channel]
                if not self.pid():
                    raise LabError("the guest went away\n" + self.log())
                if deadline and time.monotonic() > deadline:
                    raise LabError(f"the script ran past {timeout} s")
            return status

#!/usr/bin/env python3
"""Several hosts on one machine, made of Linux namespaces, for tests of jobs under mpirun.

  hosts.py [options] -- mpirun -np 4 --host h1:2,h2:2 PROGRAM ...

makes hosts h1 ... hN, runs the command on h1, and takes everything down again, whatever happens.
Each host has its own network (10.77.0.N on eth0, all on one switch), host name, /dev/shm, /tmp and
System V IPC; the file system is otherwise shared, process ids too. mpirun reaches the other hosts
through a launch agent, and is set up by environment variables (OMPI_MCA_*), so it needs no flags
but -np and --host. Environment variables of tests travel with mpirun's own -x NAME.

Needs root, or user namespaces; util-linux and iproute2.

options:
  --hosts N              how many (default 2, at most 200)
  --timeout S            then everything is killed (default 60)
  --keep DIR             a folder below /tmp that hosts shall see in spite of their own /tmp
                         (repeatable; the working directory is always kept)
  --fault 'WHEN WHAT'    injects a fault, once (repeatable; each has its own clock)
       WHEN:  SECONDS            after the command started
              /REGEX/            when a line of its output matches
              /REGEX/+SECONDS    that long after
       WHAT:  kill-rank R [SIG]          the process of MPI rank R (default SIG: KILL; STOP, CONT, ...)
              kill-command HOST RE [SIG]  processes on HOST whose command line matches RE
              kill-daemon HOST           Open MPI's daemon there
              down HOST | up HOST        carrier lost | back
              blackhole HOST | heal HOST the switch silently drops the host's packets | stops that
  --expect-traffic B     fail unless every host sent and received at least B bytes
  --expect-exit CODES    the command's exit code must be one of these, as in 0 or 1,137 or nonzero;
                         then hosts.py exits with 0
  --expect-within S      the command must end at most S seconds after the last fault
  --expect-output RE     a line of the output must match (repeatable)
  --expect-no-leftovers  no process of the command may be left 2 s after its end, or when the time
                         of --expect-within is over, if that is later: a host that was cut off has
                         to find out by itself
  --report FILE          JSON: exit_code, seconds, timed_out, faults [{what, at}], traffic {host:
                         {sent, received}}, leftovers [command lines], failures [text]

exit code: the command's (with --expect-exit: 0), or
  77   hosts cannot be made here (no rights): a test is skipped with SKIP_RETURN_CODE 77
  98   an expectation failed; it is named on standard error
  124  timeout
"""

import argparse
import ctypes
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

SKIP, UNMET, TIMEOUT = 77, 98, 124
RUN = pathlib.Path("/run")  # a tmpfs of the sandbox's own
AGENT = RUN / "launch-agent"

SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_plm_rsh_agent": str(AGENT),
    "OMPI_MCA_oob_tcp_if_include": "eth0",
    "OMPI_MCA_btl_tcp_if_include": "eth0",
    "OMPI_MCA_btl_tcp_disable_family": "6",
    "OMPI_MCA_btl": "self,vader,tcp",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_orte_base_help_aggregate": "0",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # A dead rank ends the job in 0.03 s instead of 3 s, a vanished host in 7 s instead of minutes.
    "OMPI_MCA_odls_base_sigkill_timeout": "0",
    "OMPI_MCA_oob_tcp_keepalive_time": "2",
    "OMPI_MCA_oob_tcp_keepalive_intvl": "1",
    "OMPI_MCA_oob_tcp_keepalive_probes": "3",
}


class CannotMakeHosts(Exception):
    pass


def say(text):
    print(f"hosts: {text}", file=sys.stderr, flush=True)


def sh(*command, stdin=None):
    done = subprocess.run(command, capture_output=True, text=True, stdin=stdin)
    if done.returncode != 0:
        raise CannotMakeHosts(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


# --- outside: a throw-away sandbox --------------------------------------------------------------


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def outside(options, arguments):
    """Runs this script again inside namespaces that die with it."""
    unshare = ["unshare"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    unshare += ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
                "--mount-proc", "--uts", "--ipc"]
    if subprocess.run(unshare + ["true"], capture_output=True).returncode != 0:
        say("cannot make namespaces here (neither root nor user namespaces): skipped")
        return SKIP
    command = unshare + [sys.executable, os.path.abspath(__file__), "--inside", *arguments]
    sandbox = subprocess.Popen(command, preexec_fn=die_with_parent)
    try:
        # The inside keeps the time; this is for the case that it cannot.
        return sandbox.wait(timeout=options.timeout + 30)
    except subprocess.TimeoutExpired:
        say("the sandbox itself hangs: killed")
        return TIMEOUT
    finally:
        sandbox.kill()
        sandbox.wait()


# --- inside: hosts ------------------------------------------------------------------------------


class Host:
    """One host: a network namespace, and a process that holds the others."""

    def __init__(self, number, kept):
        self.name = f"h{number}"
        self.port = f"port{number}"
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", "name", self.port, "type", "veth", "peer", "name", "eth0", "netns",
           self.name)
        sh("ip", "link", "set", self.port, "master", "switch", "up")
        sh("ip", "-n", self.name, "link", "set", "lo", "up")
        sh("ip", "-n", self.name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
        sh("ip", "-n", self.name, "link", "set", "eth0", "up")
        script = [f"hostname {self.name}", "mount -t tmpfs tmpfs /dev/shm",
                  "mount -t tmpfs tmpfs /tmp", f"mount --bind {RUN}/etc-hosts /etc/hosts"]
        for i, folder in enumerate(kept):
            quoted = shlex.quote(folder)
            script += [f"mkdir -p {quoted}", f"mount --bind {RUN}/kept/{i} {quoted}"]
        script += ["echo ready", "exec sleep infinity"]
        self.holder = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--uts", "--ipc", "--mount",
             "--propagation", "private", "sh", "-ec", "\n".join(script)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline().strip() != "ready":
            raise CannotMakeHosts(f"{self.name}: {self.holder.stderr.read().strip()}")
        (RUN / "hosts" / self.name).write_text(str(self.holder.pid))
        self.namespace = os.readlink(f"/proc/{self.holder.pid}/ns/uts")

    def command(self, command):
        return ["nsenter", "-t", str(self.holder.pid), "-n", "-u", "-i", "-m", "sh", "-c",
                'cd "$0" && exec "$@"', os.getcwd(), *command]

    def traffic(self):
        """What the host sent and received, as the switch's port counted it."""
        stats = json.loads(sh("ip", "-j", "-s", "link", "show", self.port))[0]["stats64"]
        return {"sent": stats["rx"]["bytes"], "received": stats["tx"]["bytes"]}

    def processes(self):
        """(pid, command line) of everything that runs on this host, but for the holder."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.holder.pid:
                continue
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if os.readlink(entry / "ns/uts") == self.namespace and state not in "ZX":
                    found.append((int(entry.name), line.strip()))
            except OSError:
                continue  # it has just ended
        return found


class Sandbox:
    def __init__(self, count, keep):
        sh("mount", "-t", "tmpfs", "tmpfs", str(RUN))
        (RUN / "hosts").mkdir()
        lines = ["127.0.0.1 localhost"] + [f"10.77.0.{i} h{i}" for i in range(1, count + 1)]
        (RUN / "etc-hosts").write_text("\n".join(lines) + "\n")
        AGENT.write_text('#!/bin/sh\nhost=$1\nshift\n'
                         f'exec nsenter -t "$(cat {RUN}/hosts/$host)" -n -u -i -m '
                         '/bin/sh -c "$*"\n')
        AGENT.chmod(0o755)
        kept = [os.path.realpath(f) for f in [os.getcwd(), *keep]]
        kept = [f for f in dict.fromkeys(kept) if f.startswith("/tmp/")]
        for i, folder in enumerate(kept):
            (RUN / "kept" / str(i)).mkdir(parents=True)
            sh("mount", "--bind", folder, str(RUN / "kept" / str(i)))
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "name", "switch", "type", "bridge")
        sh("ip", "link", "set", "switch", "up")
        self.hosts = [Host(i, kept) for i in range(1, count + 1)]

    def host(self, name):
        for host in self.hosts:
            if host.name == name:
                return host
        raise ValueError(f"no host {name}")

    def ranks(self, rank):
        """Pids of the processes that carry an MPI rank, parents before children."""
        mark = f"OMPI_COMM_WORLD_RANK={rank}".encode()
        pids = []
        for host in self.hosts:
            for pid, _ in host.processes():
                try:
                    if mark in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        pids.append(pid)
                except OSError:
                    continue
        return sorted(pids)


# --- faults -------------------------------------------------------------------------------------


class Fault:
    def __init__(self, text):
        self.text = text
        match = re.fullmatch(r"(?:/(?P<re>.+?)/(?:\+(?P<lag>[\d.]+))?|(?P<time>[\d.]+))\s+(?P<what>.+)",
                             text)
        if not match:
            raise ValueError(f"--fault '{text}': WHEN WHAT, see --help")
        self.pattern = re.compile(match["re"]) if match["re"] else None
        self.delay = float(match["time"] or match["lag"] or 0)
        self.what = shlex.split(match["what"])
        self.armed = False
        known = {"kill-rank": (2, 3), "kill-command": (3, 4), "kill-daemon": (2, 2), "down": (2, 2),
                 "up": (2, 2), "blackhole": (2, 2), "heal": (2, 2)}
        if len(self.what) not in known.get(self.what[0], ()):
            raise ValueError(f"--fault '{text}': unknown fault, see --help")

    def inject(self, sandbox):
        verb, target = self.what[0], self.what[1]
        if verb == "kill-rank":
            # The first is the rank itself; its children may have inherited the variables.
            self.kill(sandbox.ranks(int(target))[:1], 2)
        elif verb == "kill-command":
            found = sandbox.host(target).processes()
            self.kill([pid for pid, line in found if re.search(self.what[2], line)], 3)
        elif verb == "kill-daemon":
            found = sandbox.host(target).processes()
            self.kill([p for p, line in found if re.match(r"(\S*/)?orted\b", line)], 2)
        elif verb in ("down", "up"):
            sh("ip", "link", "set", sandbox.host(target).port, verb)
        elif verb == "blackhole":
            sh("ip", "link", "set", sandbox.host(target).port, "nomaster")
        elif verb == "heal":
            sh("ip", "link", "set", sandbox.host(target).port, "master", "switch")

    def kill(self, pids, signal_at):
        name = self.what[signal_at] if len(self.what) > signal_at else "KILL"
        if not pids:
            raise RuntimeError(f"--fault '{self.text}': no such process")
        for pid in pids:
            os.kill(pid, signal.Signals["SIG" + name])


# --- one run ------------------------------------------------------------------------------------


class Run:
    """The command, its output, its faults and what became of it."""

    def __init__(self, sandbox, options):
        self.sandbox = sandbox
        self.options = options
        self.faults = [Fault(text) for text in options.fault]
        self.unseen = [re.compile(text) for text in options.expect_output]
        self.lock = threading.Lock()
        self.timers = []
        self.report = {"exit_code": None, "seconds": 0.0, "timed_out": False, "faults": [],
                       "traffic": {}, "leftovers": [], "failures": []}

    def fire(self, fault):
        try:
            fault.inject(self.sandbox)
            say(f"{fault.text}: done")
        except (RuntimeError, ValueError, CannotMakeHosts, OSError) as error:
            self.report["failures"].append(str(error))
        self.report["faults"].append({"what": fault.text, "at": time.monotonic() - self.start})

    def arm(self, fault):
        with self.lock:
            if fault.armed:
                return
            fault.armed = True
            timer = threading.Timer(fault.delay, self.fire, [fault])
            timer.daemon = True
            self.timers.append(timer)
        timer.start()

    def forward(self, source, sink):
        for line in source:
            sink.write(line)
            sink.flush()
            text = line.decode(errors="replace").rstrip("\n")
            for fault in self.faults:
                if fault.pattern and fault.pattern.search(text):
                    self.arm(fault)
            with self.lock:
                self.unseen = [p for p in self.unseen if not p.search(text)]

    def run(self):
        self.start = time.monotonic()
        command = subprocess.Popen(
            self.sandbox.hosts[0].command(self.options.command), env={**os.environ, **SETTINGS},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        readers = [threading.Thread(target=self.forward, args=pair, daemon=True)
                   for pair in ((command.stdout, sys.stdout.buffer),
                                (command.stderr, sys.stderr.buffer))]
        for reader in readers:
            reader.start()
        for fault in self.faults:
            if not fault.pattern:
                self.arm(fault)
        try:
            code = command.wait(timeout=self.options.timeout)
            self.report["exit_code"] = code if code >= 0 else 128 - code
        except subprocess.TimeoutExpired:
            self.report["timed_out"] = True
        self.report["seconds"] = time.monotonic() - self.start
        for timer in self.timers:
            timer.cancel()
        if self.report["timed_out"]:
            self.report["leftovers"] = self.left_over()
        else:
            self.look_for_leftovers()
        for reader in readers:
            reader.join(timeout=1)
        self.report["traffic"] = {h.name: h.traffic() for h in self.sandbox.hosts}

    def left_over(self):
        return [f"{h.name}: {line} ({pid})" for h in self.sandbox.hosts
                for pid, line in h.processes()]

    def look_for_leftovers(self):
        """Waits for all to end. Returns as soon as they have."""
        end = time.monotonic() + 2
        if self.options.expect_within is not None and self.report["faults"]:
            last = self.start + max(fault["at"] for fault in self.report["faults"])
            end = max(end, last + self.options.expect_within)
        left = self.left_over()
        while left and time.monotonic() < end:
            time.sleep(0.1)
            left = self.left_over()
        self.report["leftovers"] = left

    def judge(self):
        """Compares with what was expected; returns the exit code."""
        options, report, failures = self.options, self.report, self.report["failures"]
        code = report["exit_code"]
        if report["timed_out"]:
            failures.append(f"the command did not end within {options.timeout:g} s; still there: "
                            + "; ".join(report["leftovers"]))
        for fault in self.faults:
            if not any(done["what"] == fault.text for done in report["faults"]):
                failures.append(f"--fault '{fault.text}' was never due")
        if options.expect_exit is not None and not report["timed_out"]:
            wanted = options.expect_exit
            met = code != 0 if wanted == "nonzero" else str(code) in wanted.split(",")
            if not met:
                failures.append(f"exit code {code} instead of {wanted}")
        if options.expect_within is not None and report["faults"]:
            after = report["seconds"] - max(fault["at"] for fault in report["faults"])
            if after > options.expect_within:
                failures.append(f"ended {after:.2f} s after the fault, not {options.expect_within:g}")
        if options.expect_traffic is not None:
            for host, count in report["traffic"].items():
                if min(count.values()) < options.expect_traffic:
                    failures.append(f"traffic of {host}: {count}, less than expected")
        failures += [f"no line of the output matches '{p.pattern}'" for p in self.unseen]
        if options.expect_no_leftovers and report["leftovers"] and not report["timed_out"]:
            failures.append("left over: " + "; ".join(report["leftovers"]))
        for failure in failures:
            say(failure)
        if options.report:
            pathlib.Path(options.report).write_text(json.dumps(report, indent=2) + "\n")
        if report["timed_out"]:
            return TIMEOUT
        if failures:
            return UNMET
        return 0 if options.expect_exit is not None else code


def inside(options):
    try:
        sandbox = Sandbox(options.hosts, options.keep)
    except (CannotMakeHosts, OSError) as error:
        say(f"cannot make hosts here: {error}: skipped")
        return SKIP
    run = Run(sandbox, options)
    run.run()
    return run.judge()


def parse(arguments):
    parser = argparse.ArgumentParser(usage="hosts.py [options] -- COMMAND ...", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--inside", action="store_true")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--keep", action="append", default=[])
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--expect-traffic", type=int)
    parser.add_argument("--expect-exit")
    parser.add_argument("--expect-within", type=float)
    parser.add_argument("--expect-output", action="append", default=[])
    parser.add_argument("--expect-no-leftovers", action="store_true")
    parser.add_argument("--report")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args(arguments)
    if options.help:
        print(__doc__.strip())
        sys.exit(0)
    if not options.command or not 1 <= options.hosts <= 200:
        parser.error("a command after --, and 1 to 200 hosts")
    try:
        for text in options.fault:
            Fault(text)
    except (ValueError, re.error) as error:
        parser.error(str(error))
    return options


def main():
    arguments = sys.argv[1:]
    options = parse(arguments)
    # A test runner that gives up must not leave hosts behind: leave through `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.inside:
        code = inside(options)
        # Everything here ends with this process, which is number 1 of its namespace.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(outside(options, arguments))


if __name__ == "__main__":
    main()

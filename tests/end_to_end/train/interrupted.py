"""Lives of a run that end where they are told to, not when a clock says so.

A program: it imports everything once and forks a process for every life, which is `vitreg train` with the words given.
While a life is inside one of the loop's three doings, every Python and C function that is called is an event; at a given
event of a given doing it is killed, gets a signal, or finds its disk full. Half of a checkpoint is therefore half of a
checkpoint on any machine, however fast.

    python interrupted.py < lives.json > ends.json
    torchrun ... interrupted.py life.json             one life on several processes, of which the first is interrupted
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

REGIONS = {"_update": "step", "_save": "save", "_look": "look"}  # methods of the loop
DISK = {"mkdir", "rename", "replace", "fsync", "rmdir", "unlink", "write", "scandir"}  # a doing of its own, in saves


def main():
    for name in ("timm.data", "vitreg.verbs.curves", "vitreg.verbs.train.verb"):
        importlib.import_module(name)  # once, before all lives

    if sys.argv[1:]:
        life = json.loads(Path(sys.argv[1]).read_text())
        first = os.environ["RANK"] == "0"
        sys.exit(live(life if first else {**life, "doing": None}, Path(f"{life['log']}.events{os.environ['RANK']}")))
    lives = json.load(sys.stdin)
    json.dump([end_of(life) for life in lives], sys.stdout)


def end_of(life):
    """Live, and return {"code": exit code, negative for a signal, "said": output, "events": of each doing}."""
    said, counted = Path(life["log"]), Path(f"{life['log']}.events")
    if "emptied" in life:
        Path(life["emptied"]).unlink(missing_ok=True)
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        events = json.loads(counted.read_text()) if counted.exists() else {}
        return {"code": code, "said": said.read_text(), "events": events}
    code = 1
    try:
        log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115  # not a test's own
        code = live(life, counted)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def live(life, counted):
    from vitreg.__main__ import main as vitreg

    watch = Watch(life.get("doing"), life.get("event", 0), actions(life))
    sys.argv = ["vitreg", "train", *life["words"]]
    sys.setprofile(watch)
    try:
        vitreg()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.setprofile(None)
        counted.write_text(json.dumps(watch.events))
    return 0


class Watch:
    """Counts the events of each doing, and acts once at the one it waits for."""

    def __init__(self, doing, event, act):
        self.doing, self.event, self.act = doing, event, act
        self.events = dict.fromkeys([*REGIONS.values(), "disk"], 0)
        self.inside, self.process = None, os.getpid()

    def __call__(self, frame, kind, called):
        code = frame.f_code
        if code.co_name in REGIONS and code.co_filename.endswith("training/fit.py") and kind in ("call", "return"):
            self.inside = REGIONS[code.co_name] if kind == "call" else None
        if self.inside is None or kind not in ("call", "c_call") or os.getpid() != self.process:
            return  # data workers are born inside a look, and are not meant
        doings = [self.inside]
        if self.inside == "save" and kind == "c_call" and getattr(called, "__name__", "") in DISK:
            doings.append("disk")
        for doing in doings:
            self.events[doing] += 1
            if doing == self.doing and self.events[doing] == self.event:
                self.act()


def actions(life):
    def fill():
        # From the beginning to the last byte, so that whatever is written next has no room.
        with contextlib.suppress(OSError), open(life["filler"], "wb", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass

    def send():
        os.kill(os.getpid(), getattr(signal, life["signal"]))

    return fill if "filler" in life else send


if __name__ == "__main__":
    main()

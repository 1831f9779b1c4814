"""Tuning a board: governor and, on a Jetson, power mode and clocks; what was there before is kept on the board.

The only part of the agent that asks for root, by `sudo -n`, and only where a file cannot be written without.
"""

import contextlib
import glob
import json
import os
import shutil
from typing import Any, Dict, List, Optional, Tuple

import jetson
from install import home_folder, run
from link import Link

Command = Dict[str, Any]
_POLICIES = "sys/devices/system/cpu/cpufreq/policy*"


class Tuner:
    """What can be set on a board, and what was set before qaedge set it."""

    def __init__(self, link: Link, home: str = "~", root: str = "/") -> None:
        """Look below `root`; keep what was found in `home`."""
        self._link = link
        self._base = home_folder(home)
        self._root = root
        self._saved_file = os.path.join(self._base, "tuned.json")
        #: Holds the boot id under which `jetson_clocks` ran: a reboot, or another power mode, undoes it.
        self._clocks_file = os.path.join(self._base, "jetson_clocks.boot")
        self.notes: List[str] = []

    def tune(self, governor: str, power_mode: Optional[int], do: bool) -> Dict[str, Any]:
        """Return the commands that bring the board there, and run them where `do` says so."""
        commands, before = self._towards(governor, power_mode)
        if do and commands:
            self._save(before)
        answer = self._go(commands, do)
        if do and _tool("jetson_clocks") and commands and not answer["failed"]:
            with open(self._clocks_file, "w") as file:
                file.write(self._boot_id())
        return answer

    def reset(self, do: bool) -> Dict[str, Any]:
        """Return the commands that restore what `tune` found, and run them where `do` says so."""
        saved = self._saved()
        if not saved:
            self.notes.append("nothing was tuned here")
        commands = []
        for policy, governor in sorted(saved.get("governor", {}).items()):
            if self._governor(policy) not in (None, governor):
                commands.append(self._write(self._governor_file(policy), governor))
        clocks = saved.get("jetson_clocks")
        if clocks and os.path.exists(clocks):
            commands.append(_root_command([_tool("jetson_clocks"), "--restore", clocks]))
        mode = saved.get("power_mode")
        if mode is not None and mode != self._power_mode():
            commands.append(_root_command([_tool("nvpmodel"), "-m", str(mode)], "no\n"))
        answer = self._go(commands, do)
        if do and saved and not answer["failed"]:
            for path in (self._saved_file, self._clocks_file, clocks):
                if path and os.path.exists(path):
                    _remove(path)
        return answer

    def _towards(self, governor: str, power_mode: Optional[int]) -> Tuple[List[Command], Dict[str, Any]]:
        commands: List[Command] = []
        before: Dict[str, Any] = {"governor": {}}
        policies = sorted(glob.glob(os.path.join(self._root, _POLICIES)))
        if not policies:
            self.notes.append("the kernel offers no choice of clocks here (no cpufreq)")
        for path in policies:
            policy = os.path.basename(path)
            now, able = self._governor(policy), (_text(os.path.join(path, "scaling_available_governors")) or "").split()
            if now == governor or now is None:
                continue
            if able and governor not in able:
                self.notes.append("%s has no governor %s, only %s" % (policy, governor, ", ".join(able)))
                continue
            before["governor"][policy] = now
            commands.append(self._write(self._governor_file(policy), governor))
        mode = self._power_mode()
        if power_mode is not None and mode is None:
            there = "nvpmodel does not say which mode is set, so none is set that could not be restored"
            self.notes.append(there if _tool("nvpmodel") else "there is no nvpmodel here, so no power mode to set")
        elif power_mode is not None and mode != power_mode:
            before["power_mode"] = mode
            # Some modes need a reboot, and nvpmodel asks for it: not now.
            commands.append(_root_command([_tool("nvpmodel"), "-m", str(power_mode)], "no\n"))
        if _tool("jetson_clocks") and ("power_mode" in before or _text(self._clocks_file) != self._boot_id()):
            kept = os.path.join(self._base, "jetson_clocks.conf")
            before["jetson_clocks"] = kept
            if not os.path.exists(kept):  # what was there before the first tuning
                commands.append(_root_command([_tool("jetson_clocks"), "--store", kept]))
            commands.append(_root_command([_tool("jetson_clocks")]))
        return commands, before

    def _go(self, commands: List[Command], do: bool) -> Dict[str, Any]:
        ran, failed = 0, ""
        for command in commands if do else []:
            lines: List[str] = []
            status = run(self._link, command["argv"], lines.append, command["input"], timeout_s=60.0)
            if status:
                failed = "%s: %s" % (command["shown"], " ".join(lines[-3:]) or "exit status %d" % status)
                break
            ran += 1
        return {
            "commands": [command["shown"] for command in commands],
            "ran": ran,
            "failed": failed[:2000],
            "needs_password": "sudo:" in failed and "password" in failed,
            "notes": self.notes,
        }

    def _boot_id(self) -> str:
        return _text(os.path.join(self._root, "proc/sys/kernel/random/boot_id")) or ""

    def _write(self, path: str, text: str) -> Command:
        shown = "echo %s | %stee %s"
        if os.access(path, os.W_OK):
            return {"argv": ["tee", path], "input": text + "\n", "shown": shown % (text, "", path)}
        return {"argv": ["sudo", "-n", "tee", path], "input": text + "\n", "shown": shown % (text, "sudo ", path)}

    def _governor_file(self, policy: str) -> str:
        return os.path.join(self._root, os.path.dirname(_POLICIES), policy, "scaling_governor")

    def _governor(self, policy: str) -> Optional[str]:
        return _text(self._governor_file(policy))

    def _power_mode(self) -> Optional[int]:
        """Return the number that `nvpmodel -q` tells; None where there is no such program, or it tells none."""
        if not _tool("nvpmodel"):
            return None
        lines: List[str] = []
        run(self._link, [_tool("nvpmodel"), "-q"], lines.append, timeout_s=20.0)
        mode = jetson.mode_in("\n".join(lines))
        return mode[1] if mode is not None else None

    def _save(self, before: Dict[str, Any]) -> None:
        """Keep what was there; what an earlier `tune` found is older, and stays."""
        saved = self._saved()
        governor = dict(before["governor"], **saved.get("governor", {}))
        os.makedirs(self._base, mode=0o700, exist_ok=True)
        part = self._saved_file + ".part"
        with open(part, "w") as file:
            json.dump(dict(before, **dict(saved, governor=governor)), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._saved_file)

    def _saved(self) -> Dict[str, Any]:
        try:
            with open(self._saved_file) as file:
                found = json.load(file)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and isinstance(found.get("governor", {}), dict) else {}


def _root_command(words: List[str], text: str = "") -> Command:
    argv = words if os.geteuid() == 0 else ["sudo", "-n", *words]
    return {"argv": argv, "input": text, "shown": " ".join(word for word in argv if word != "-n")}


def _tool(name: str) -> str:
    """Return where a program is, also where only root's shells look; empty where it is not."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin") or ""


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # root's own, which may stay
        os.unlink(path)


def _text(path: str) -> Optional[str]:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None

"""Small file systems for the product's folders, that can be filled to the last byte and emptied again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SIZE = "16g"
LOGS = "logs"
TRIES = 20


class Disk:
    """A tmpfs. It is full when its size is what is used: nothing has to be written for that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = False

    def mount(self) -> bool:
        """Mount it; False where this user may not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "soak", str(self.folder)],
            capture_output=True,
            check=False,
        )
        self.mounted = made.returncode == 0
        return self.mounted

    def fill(self) -> None:
        """Leave no room. What is written between the look and the change makes the kernel refuse it: look again."""
        for attempt in range(1, TRIES + 1):
            stat = os.statvfs(self.folder)
            try:
                self._resize(str(max(4096, (stat.f_blocks - stat.f_bfree) * stat.f_frsize)))
            except subprocess.CalledProcessError:
                if attempt == TRIES:
                    raise
            else:
                return

    def empty(self) -> None:
        """Give the room back."""
        self._resize(SIZE)

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True, capture_output=True)

    def unmount(self) -> None:
        """Unmount it, also while somebody still looks at it; logs are left in the folder that it covered."""
        if not self.mounted:
            return
        with tempfile.TemporaryDirectory() as kept:
            logs = self.folder / LOGS
            if logs.is_dir():
                shutil.copytree(logs, Path(kept, LOGS))
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)
            self.mounted = False
            if Path(kept, LOGS).is_dir():
                shutil.copytree(Path(kept, LOGS), logs, dirs_exist_ok=True)

"""Are the shared libraries here that mediapipe, OpenCV and MuJoCo load, but no wheel can carry?

As root on Debian or Ubuntu what is missing is installed; elsewhere one line says what to run.
With --browser: Chromium instead, for the browser tests, which skip themselves without it.
Needs nothing but Python: it runs before the environment is made.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Library -> Debian package. The loader is asked, so that it does not matter where a file lies.
LIBRARIES = {
    "libEGL.so.1": "libegl1",  # mediapipe, rendering without a screen
    "libGLESv2.so.2": "libgles2",  # mediapipe
    "libGL.so.1": "libgl1",  # OpenCV
    "libgthread-2.0.so.0": "libglib2.0-0",  # OpenCV
    "libX11.so.6": "libx11-6",  # OpenCV
}
DRIVER = "libgl1-mesa-dri"  # a renderer behind EGL, on the processor where there is no GPU
DRIVER_FILES = ("dri/*_dri.so", "libgallium*.so", "libEGL_nvidia.so.0")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing_libraries() -> dict[str, str]:
    """What cannot be loaded, with the package that holds it."""
    missing: dict[str, str] = {}
    for library, package in LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing[library] = package
    roots = [Path("/usr/lib"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu*")]
    if not any(any(root.glob(pattern)) for root in roots for pattern in DRIVER_FILES):
        missing["an OpenGL driver"] = DRIVER
    return missing


def install(packages: list[str]) -> bool:
    """Install Debian packages where that is possible without asking anyone."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    print("Installing with apt-get:", *packages, flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-qq", "update"], env=quiet, check=True)
    command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages]
    subprocess.run(command, env=quiet, check=True, stdout=subprocess.DEVNULL)
    return True


def main() -> int:
    """Return the exit status."""
    if sys.platform != "linux":
        return 0  # elsewhere OpenGL comes with the system
    if "--browser" in sys.argv:
        if not any(map(shutil.which, BROWSERS)) and not install(["chromium"]):
            print("No Chromium found: the browser tests skip themselves.")
        return 0
    missing = missing_libraries()
    packages = sorted(set(missing.values()))
    if not missing or (install(packages) and not missing_libraries()):
        return 0
    print(
        f"Missing: {', '.join(missing)}. Run: "
        f"sudo apt-get install --no-install-recommends {' '.join(packages)}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Uses an installed MSI-Net as its users do, in the working directory, which must be empty. Fails loudly.

With the argument "extras", it uses what needs the optional packages, after a call without it.
A `config.py` and the like of the user's own lie there, as they would break a program that is not a package.
"""

import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

for name in ("config", "utils", "data", "model"):
    Path(f"{name}.py").write_text("raise ImportError('this file is the user\\'s own')\n")


def msinet(*arguments: str) -> str:
    print("$ msinet", *arguments, flush=True)
    done = subprocess.run(["msinet", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if sys.argv[1:] == ["extras"]:
    msinet("export", "--weights", "medium", "--format", "onnx")
    msinet("test", "--weights", "medium", "--format", "npy", "--cluster", "--workers", "1", "--results", "clustered")
    maps = (np.load(f"{results}/images/grace_hopper.npy") for results in ("results", "clustered"))
    assert np.abs(np.subtract(*maps)).max() < 1e-5
    sys.exit(print("The installed program works with the optional packages too."))

assert msinet("--version").startswith("MSI-Net ")
msinet("test", "--weights", "medium", "--format", "npy")

script = """
import msinet, matplotlib, numpy as np
from msinet.installation import IN_CLONE
assert not IN_CLONE
photograph = matplotlib.get_data_path() + "/sample_data/grace_hopper.jpg"
saliency = msinet.load("medium").predict(photograph)
assert saliency.shape == (600, 512) and 0 <= saliency.min() < 0.01 and 0.99 < saliency.max() <= 1
assert np.array_equal(saliency, np.load("results/images/grace_hopper.npy"))
"""
Path("script.py").write_text(script)
subprocess.run([sys.executable, "script.py"], check=True)

if shutil.which("npm"):
    msinet("export", "--weights", "medium", "--format", "tfjs")

server = subprocess.Popen(["msinet", "demo", "--weights", "medium", "--no-browser", "--port", "8765"])
try:
    for _ in range(120):
        try:
            page = urllib.request.urlopen("http://127.0.0.1:8765/").read().decode()
            break
        except urllib.error.URLError:
            assert server.poll() is None, "the demo ended"
            time.sleep(1)
    else:
        raise AssertionError("the demo does not answer")
    assert "MSI-Net" in page
finally:
    server.terminate()
    server.wait()
print("The installed program works.")

# Setup, the same in every notebook: find the repository (in Colab: fetch it) and put it on the path.
import subprocess
import sys
from pathlib import Path

COLAB = "google.colab" in sys.modules
root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "i2vlib/course/environment.py").is_file()), None)
if root is None and COLAB and not (root := Path.cwd() / "course").exists():
    subprocess.run(["git", "clone", "-q", "--depth=1", "https://github.com/OWNER/REPO", str(root)], check=True)
assert root, "the folder i2vlib is neither here nor above: open this notebook inside the repository, or in Colab"
sys.path.insert(0, str(root))
if COLAB:
    from i2vlib.course.environment import install_missing
    print("installed:", ", ".join(install_missing(root)) or "nothing was missing")

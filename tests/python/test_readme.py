import re
import subprocess
import sys
from pathlib import Path


def test_the_example_prints_what_is_said():
    text = Path(__file__).parents[2].joinpath("README.md").read_text()
    found = re.search(r"```python\n(.*?)```\n\nprints\n\n```text\n(.*?)```", text, re.S)
    assert found, "README.md: no ```python block followed by 'prints' and a ```text block"
    done = subprocess.run([sys.executable, "-c", found[1]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == found[2]

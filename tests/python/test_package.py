import subprocess
import sys

import manyhop as mh


def test_public_names_are_documented():
    for name in mh.__all__:
        assert getattr(mh, name).__doc__, name


def test_the_command_line_is_the_program():
    done = subprocess.run([sys.executable, "-m", "manyhop", "info", "window(2)", "-n", "10", "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and '"edges"' in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "manyhop", "info", "windw(2)", "-n", "10"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


def test_import_wants_neither_torch_nor_scipy():
    code = ("import sys\nfor m in ('torch', 'scipy', 'networkx'): sys.modules[m] = None\n"
            "import numpy as np, manyhop as mh\nx = np.ones((1, 1, 4, 2), np.float32)\n"
            "print(mh.attention(x, x, x, mh.graph('full', 4)).sum())\n"
            "try: mh.graph('full', 4).to_scipy()\nexcept mh.Error as e: print('pip install' in str(e))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["8.0", "True"], done.stderr


def test_interrupt_reaches_a_script():
    code = ("import numpy as np, manyhop as mh, os, signal, threading, time\n"
            "x = np.random.randn(1, 8, 4096, 64).astype('f'); g = mh.graph('full', 4096)\n"
            "threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
            "try:\n  for _ in range(100): mh.attention(x, x, x, g, hops=50)\nexcept KeyboardInterrupt: print('stopped')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "stopped", done.stderr

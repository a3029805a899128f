"""The code in docs/python.md runs as it stands."""

import contextlib
import importlib.util
import io
import re
import unittest
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


class Docs(unittest.TestCase):
    def test_the_page_runs(self):
        blocks = re.findall(r"^```python ?(\w*)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        self.assertGreaterEqual(len(blocks), 5)
        scope = {}
        for needs, code in blocks:
            if needs and importlib.util.find_spec(needs) is None:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, str(PAGE), "exec"), scope)
        self.assertTrue(scope["results"]["passed"])


if __name__ == "__main__":
    unittest.main()

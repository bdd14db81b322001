import subprocess
import sys

PROGRAM = """
import sys
import damoyolo.export.openvino
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", telemetry_utils.tm
"""


def test_openvino_reports_to_nobody() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)

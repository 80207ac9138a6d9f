"""What several tests share: places, stand-ins, phantoms and the golden numbers."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"  # real data for development; tests that need it are skipped without

"""Reads generated clips of moving shapes and tells whether they show what the prompt says.

Command line: `python -m tools.tiny_score video.mp4 --prompt "a red ball rolls to the left"`.
"""

from .detect import Detected, detect
from .expect import Expected, PromptError, Target, expect
from .motion import Motion
from .score import Score, compare, first_frame_psnr, psnr, score
from .table import Rates, rates, table
from .video_file import read_video

__all__ = [
    "Detected",
    "Expected",
    "Motion",
    "PromptError",
    "Rates",
    "Score",
    "Target",
    "compare",
    "detect",
    "expect",
    "first_frame_psnr",
    "psnr",
    "rates",
    "read_video",
    "score",
    "table",
]

"""Where the frames of a track belong: their own times, as far as these can be believed."""

from __future__ import annotations

import av

from .containers import Container, seconds

TOLERANCE = 0.1
"""Seconds that times may be off before anything is moved, as FFmpeg's aresample has it
(min_hard_comp): clocks drift, and containers round."""
MAX_OVERLAP = 1.0
"""Seconds that a frame may go back in time to overlap what was before it; beyond that, the clock
was set anew."""
MAX_GAP = 600.0
"""Seconds of silence that are believed before the first frame; and in all gaps together, where no
header says how long the recording is."""
JITTER = 0.005
"""Seconds that a frame may begin before the end of the one before it, by rounding."""

FROM_ZERO = {"mov", "mp4", "matroska", "webm"}
"""Containers (FFmpeg's names) whose times count from the beginning of the recording; in others a
first time has no meaning, but for the tracks beside it."""
TIMED = {*FROM_ZERO, "ogg", "flac", "mpegts", "mpeg", "flv", "asf", "nut", "mxf"}
"""Containers that have times of their own; in others FFmpeg counts samples."""


class Timeline:
    """The times of one track.

    Args:
        container: what it is in.
        track: the track.
    """

    def __init__(self, container: Container, track: av.AudioStream) -> None:
        formats = set(container.format.name.split(","))
        self.timed = bool(formats & TIMED)
        """Whether gaps can be seen by the times of frames."""
        self.position = 0.0
        """Seconds that have been placed so far: where the next frame belongs."""
        start = seconds(container.start_time) or 0.0
        from_zero = bool(formats & FROM_ZERO) and 0 <= start <= MAX_GAP
        self._shift = 0.0 if from_zero else -start
        stated = seconds(container.duration), seconds(track.duration, track.time_base)
        lengths = [length for length in stated if length]
        # Some state it with the time before the first frame, some without.
        self._end = start + self._shift + max(lengths) if from_zero and lengths else None
        self._silence = MAX_GAP

    @property
    def _latest(self) -> float:
        """Where a frame may be at most, to be believed (s)."""
        return self.position + self._silence if self._end is None else self._end + TOLERANCE

    def gap(
        self, time: float | None, length: float, following: float | None, *, exact: bool = False
    ) -> float:
        """Seconds between what has been placed and a frame; below zero where it overlaps.

        A leap counts only where the next frame does not leap back (nor, after an overlap, ahead):
        else it is one wrong time. Beyond what can be, the clock was set anew: times go on from
        there.

        Args:
            time: the frame's own, in seconds; None: it has none.
            length: the frame's duration in seconds.
            following: the next frame's time; None: it has none, or there is none.
            exact: whether less than `TOLERANCE` counts too.
        """
        if time is None or (self.position and not self.timed):
            return 0.0
        gap = time + self._shift - self.position
        if abs(gap) < (JITTER if exact else TOLERANCE):
            return 0.0
        leap = 0.0 if following is None else following - time - length
        if leap < -JITTER or (gap < 0 and leap > JITTER):
            return 0.0
        if gap < -MAX_OVERLAP or self.position + gap > self._latest:
            self._shift -= gap
            return 0.0
        self._silence -= max(0.0, gap)
        return gap

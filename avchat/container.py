"""A media file, opened safely: what is in it, its packets, and its clock.

The file's clock is the one a player shows: zero is where the earliest track begins, or the zero of
the container where a track begins before that (what sounds or shows before zero is cut).
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av import AudioStream, VideoFrame, VideoStream
from av.container import InputContainer
from av.stream import Disposition, Stream

# The demuxers a file may choose. Left out on purpose: playlists (hls, concat, dash), which open
# other files, and devices, raw data, subtitles and text art (tty: it makes pictures of a text).
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpegts,mpeg,mpegvideo,h264,hevc,vvc,m4v,obu,"
    "ivf,mxf,rm,dv,nut,gxf,wtv,yuv4mpegpipe,mjpeg,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,ac3,eac3,"
    "dts,amr,wv,ape,tta,tak,mpc,mpc8,gif,apng,image2,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,"
    "tiff_pipe,jpegxl_pipe,j2k_pipe,ppm_pipe,pgm_pipe,qoi_pipe"
)
# Containers with an index, where a seek lands where it was aimed. The others are walked through.
INDEXED = ("mov", "matroska")
# Streams whose header does not hold their length, and some MP3: libav guesses it from the bit rate.
GUESSED_LENGTH = ("aac", "ac3", "eac3", "dts", "amr", "h264", "hevc", "m4v", "mpegvideo")
RIFF_UNKNOWN = 0xFFFF_FF00  # sizes from here on mean: written before the size was known
MAX_READ_ERRORS = 20  # demuxers that can find their way again after damage do so sooner
MAX_BOXES = 10_000  # top-level boxes of an MP4 file looked at before giving up


class MediaError(Exception):
    """Say in one line, which begins with the file's name, why a file cannot be used."""


def open_file(path: Path) -> InputContainer:
    """Open a media file for reading; raise MediaError for anything that is not one."""
    check_ordinary(path)
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except PermissionError as error:
        if error.errno == 13:
            raise MediaError(f"{path.name}: no permission to read this file") from error
        raise MediaError(f"{path.name}: a playlist, not a media file") from error
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise MediaError(f"{path.name}: {why_not(path)}") from error


def check_ordinary(path: Path) -> None:
    """Raise MediaError unless there is an ordinary file with something in it."""
    if not path.exists():
        raise MediaError(f"{path.name}: no such file")
    if path.is_dir():
        raise MediaError(f"{path.name}: this is a folder, not a file")
    if not path.is_file():
        raise MediaError(f"{path.name}: not an ordinary file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name}: the file is empty")


def why_not(path: Path) -> str:
    """Say in the user's words why a file did not open."""
    with path.open("rb") as file:
        head = file.read(4096)
    if is_text(head):
        return "this is text, not a video, sound or picture file"
    if head[4:8] == b"ftyp" and "moov" not in box_names(path):
        reason = "moov atom missing: the file is cut short"
    else:
        reason = "unknown or damaged format"
    return f"no video or audio stream could be decoded ({reason})"


def is_text(head: bytes) -> bool:
    """Tell whether the first bytes of a file are text."""
    if b"\0" in head:
        return False
    try:
        # The last character may be cut in two: at most 3 bytes of it are there.
        head[: max(1, len(head) - 3)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def box_names(path: Path) -> list[str]:
    """Name the top-level boxes of an MP4 file, as far as they can be followed."""
    return [name for name, _ in list_boxes(path)]


def list_boxes(path: Path) -> list[tuple[str, float]]:
    """List the top-level boxes of an MP4 file and where each ends, in bytes; nowhere if damaged."""
    boxes: list[tuple[str, float]] = []
    end = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= end and len(boxes) < MAX_BOXES:
            file.seek(at)
            size, name = int.from_bytes(file.read(4), "big"), file.read(4).decode("latin-1")
            if size == 1:  # the real size follows, in 8 bytes
                size = int.from_bytes(file.read(8), "big")
            if size < 8:  # 0: up to the end of the file; else not a box
                boxes.append((name, math.inf if size else end))
                break
            at += size
            boxes.append((name, at))
    return boxes


def length_s(container: InputContainer, path: Path) -> float:
    """Return how long a file says it is; 0 where it does not."""
    seconds = max(0.0, (container.duration or 0) / 1e6)
    if container.format.name in ("wav", "avi"):  # libav takes what is left of a cut file for all
        with path.open("rb") as file:
            promised = int.from_bytes(file.read(8)[4:], "little") + 8
        if path.stat().st_size < promised < RIFF_UNKNOWN:
            seconds *= promised / path.stat().st_size
    return seconds


def is_length_exact(container: InputContainer, path: Path) -> bool:
    """Tell whether the length is written in the file, not guessed from its bit rate."""
    if container.format.name != "mp3":
        return not container.format.name.startswith(GUESSED_LENGTH)
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":  # skip the tags: their size has 7 bits a byte
            file.seek(10 + sum(byte << 7 * place for place, byte in enumerate(head[:5:-1])))
        frame = file.read(64)
    return b"Xing" in frame or b"Info" in frame


def picture_stream(container: InputContainer, max_pixels: int = 0) -> VideoStream | None:
    """Return the default picture track; cover art in a song is not one.

    Its decoder refuses frames that grow past `max_pixels` on the way; 0 leaves that to libav.
    """
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        return None
    if max_pixels:
        stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return None if Disposition.attached_pic in stream.disposition else stream


def sound_stream(container: InputContainer) -> AudioStream | None:
    """Return the default sound track."""
    stream = container.streams.best("audio")
    return None if stream is None or stream.codec_context is None else stream


def is_still(container: InputContainer) -> bool:
    """Tell whether a file is one picture, which has no time."""
    name = container.format.name
    if name == "image2" or name.endswith("_pipe"):
        return name != "yuv4mpegpipe"
    stream = picture_stream(container)  # AVIF is an MP4 with one frame and no length
    return bool(stream and stream.frames == 1 and (name == "gif" or not container.duration))


def is_indexed(container: InputContainer) -> bool:
    """Tell whether a seek in this container can be trusted."""
    return container.format.name.startswith(INDEXED)


def bears_times(container: InputContainer, stream: VideoStream) -> bool:
    """Tell whether packets bear the times at which their frames show: in AVI, not with B frames."""
    return container.format.name != "avi" or not stream.codec_context.has_b_frames


def clock_origin(container: InputContainer) -> Fraction:
    """Return the stamp, in seconds, that the file's clock counts as zero."""
    starts = [
        stream.start_time * stream.time_base
        for stream in container.streams
        if stream.type in ("video", "audio")
        and stream.start_time is not None
        and Disposition.attached_pic not in stream.disposition
    ]
    return max(Fraction(0), min(starts, default=Fraction(0)))


def seek(container: InputContainer, stream: Stream, time_s: float) -> bool:
    """Go to the last keyframe not after a time of the container's clock; False where it cannot.

    Then the next packet is the one it would have been.
    """
    try:
        container.seek(int(time_s / stream.time_base + 1e-6), stream=stream)
    except (av.FFmpegError, OverflowError):
        return False
    return True


def read_packets(container: InputContainer, stream: Stream) -> Iterator[av.Packet]:
    """Yield a track's packets; where the file cannot be read on, they end as at its end."""
    errors = 0
    while errors < MAX_READ_ERRORS:
        try:
            for packet in container.demux(stream):
                if packet.size:  # the empty ones flush the decoder: left to the caller
                    yield packet
            return
        except (av.FFmpegError, ValueError):
            errors += 1
        except IndexError:  # a packet of a track that PyAV did not know when it opened the file
            continue


def decode(packet: av.Packet) -> list | None:
    """Decode one packet into the frames that are ready; None where it is damaged."""
    try:
        return packet.decode()
    except (av.FFmpegError, ValueError):
        return None


def drain(stream: Stream) -> list:
    """Take the frames that a decoder still holds."""
    try:
        return stream.codec_context.decode(None)
    except (av.FFmpegError, ValueError):
        return []


def play(
    container: InputContainer, stream: VideoStream, lost: list[int | None] | None = None
) -> Iterator[VideoFrame]:
    """Decode a track in order, leaving out what is damaged; `lost` collects its stamps."""
    stream.thread_type = "AUTO"
    for packet in read_packets(container, stream):
        frames = decode(packet)
        if frames is None and lost is not None:
            lost.append(packet.pts)
        yield from frames or []
    yield from drain(stream)

"""The log never holds anybody up."""

from __future__ import annotations

import os
import queue

from daiko.log_writer import LogWriter


def test_lines_come_out_in_order_and_whole() -> None:
    reading, writing = os.pipe()
    log = LogWriter(writing)
    print("one", file=log, flush=True)
    log.write("two\nth")
    log.write("ree\n")
    log.close()
    os.close(writing)
    with open(reading) as lines:
        assert lines.read() == "one\ntwo\nthree\n"


def test_log_that_nobody_reads_loses_lines_and_says_how_many() -> None:
    reading, writing = os.pipe()
    log = LogWriter(writing, lines=4)
    line = "x" * 70_000  # more than a pipe takes
    count = 0
    while not log.lost:
        log.write(f"{line}\n")
        count += 1
    for _ in range(9):
        log.write("lost\n")
    lost = log.lost
    assert lost == 10
    assert count <= 1 + 1 + 4 + 1  # at the pipe, taken by the thread, waiting, lost
    with open(reading) as lines:
        for _ in range(count - 1):
            assert lines.readline() == f"{line}\n"
        log.write("read again\n")
        assert lines.readline() == "10 lines of the log were lost: nobody read it\n"
        assert lines.readline() == "read again\n"
        assert not log.lost
        log.close()
        os.close(writing)
        assert lines.read() == ""


def test_log_whose_reader_is_gone_is_closed_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = LogWriter(writing)
    log.write("nobody hears this\n")
    log.close()
    os.close(writing)
    assert isinstance(log._queue, queue.Queue)
    assert log._queue.empty()

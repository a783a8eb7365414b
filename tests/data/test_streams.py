import os
import threading

from startup_llm.data.streams import RowSource


def test_a_pipe_is_read_no_further_than_the_next_piece():
    """An endless stream would otherwise fill the memory before the first answer."""
    read_end, write_end = os.pipe()
    source = RowSource(f"/dev/fd/{read_end}", "csv", piece_rows=2)
    assert not source.can_reread
    with os.fdopen(write_end, "wb", buffering=0) as pipe:
        threading.Thread(target=pipe.write, args=(b"text\na\nb\nc\n",)).start()
        first = next(source.pieces())
    assert [row["text"] for row in first.rows] == ["a", "b"]


def test_a_large_file_is_held_in_memory_only_by_pieces(tmp_path):
    import tracemalloc

    path = tmp_path / "a.csv"
    path.write_text("text\n" + ("x" * 1000 + "\n") * 20_000)
    tracemalloc.start()
    rows = sum(len(piece) for piece in RowSource(str(path), piece_rows=100).pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 20_000
    assert peak < 1_000_000

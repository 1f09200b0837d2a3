"""Writes tests/data/files (by SciPy, NumPy, safetensors) and tests/data/malformed with its table expected.tsv.

    python make_files.py     # from any folder; needs numpy, scipy, safetensors

The same calls write the same numbers; zip archives carry the date of the run. Every malformed file is small and
wrong in one way; expected.tsv names a fragment that the reader's message must contain.
"""
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse as sp
from safetensors.numpy import save_file

HERE = Path(__file__).parent
GOOD, BAD = HERE / "files", HERE / "malformed"

# --- well-formed files ------------------------------------------------------------------------------------
# One 5 x 5 matrix everywhere; row i, column j, value. Row 3 is empty.
ROWS, COLS = [0, 0, 1, 2, 4, 4], [1, 4, 0, 2, 0, 3]
VALUES = np.array([0.5, -1.25, 3.0, 1e-3, 1 / 3, 7.0])
A = sp.coo_matrix((VALUES, (ROWS, COLS)), shape=(5, 5)).tocsr()
sp.save_npz(GOOD / "csr_f64_compressed.npz", A)
sp.save_npz(GOOD / "csr_f32_stored.npz", A.astype(np.float32), compressed=False)
sp.save_npz(GOOD / "csr_bool.npz", A.astype(bool))
sp.save_npz(GOOD / "csc_int8.npz", sp.csc_matrix(([1, 2, 3], ([0, 2, 1], [0, 0, 2])), shape=(3, 4)).astype(np.int8))
sp.save_npz(GOOD / "coo_int64.npz", sp.coo_matrix(([1, 2, 3], ([0, 0, 1], [1, 1, 2])), shape=(2, 3)))
big = A.copy()
big.indptr, big.indices = A.indptr.astype(np.int64), A.indices.astype(np.int64)
sp.save_npz(GOOD / "csr_int64_ids.npz", big)
scipy.io.mmwrite(GOOD / "general_real.mtx", A)
scipy.io.mmwrite(GOOD / "symmetric_integer.mtx", sp.csr_matrix([[2, 1, 0], [1, 0, 5], [0, 5, 0]]), symmetry="symmetric")
scipy.io.mmwrite(GOOD / "skew_real.mtx", sp.csr_matrix([[0, 1.5], [-1.5, 0]]), symmetry="skew-symmetric")
scipy.io.mmwrite(GOOD / "rectangle_pattern.mtx", sp.csr_matrix([[1, 0, 1], [0, 1, 0]]), field="pattern")

X = np.arange(12, dtype=np.float64).reshape(3, 4) / 7
np.save(GOOD / "f8.npy", X)
np.save(GOOD / "f8_fortran.npy", np.asfortranarray(X))
np.save(GOOD / "f4_big_endian.npy", X.astype(">f4"))
np.save(GOOD / "f2_3d.npy", X.astype(np.float16).reshape(2, 3, 2))
np.save(GOOD / "i8.npy", np.array([-3, 0, 2**53], dtype=np.int64))
np.save(GOOD / "bool.npy", np.array([True, False]))
np.save(GOOD / "scalar.npy", np.float64(2.5))
for version in (2, 3):
    with open(GOOD / f"f4_v{version}.npy", "wb") as f:
        np.lib.format.write_array(f, X.astype(np.float32), version=(version, 0))
save_file({"q": X.astype(np.float32), "k": X.astype(np.float16), "v": X, "ids": np.arange(3)},
          GOOD / "mixed.safetensors", metadata={"layer": "0"})
save_file({"q": X.astype(np.float32), "none": np.zeros((0, 4), np.float16)}, GOOD / "plain.safetensors")

TEXT = {
    "karate_like.graph": "% a comment\n5 4 0\n2 3\n1 3\n1 2 5\n\n3\n",
    "weights.graph": "3 2 111 2\n 1 7 7 2 4\n 1 7 7 1 4 3 9\n 1 7 7 2 9",
    "isolated_last.graph": "4 1\r\n2\r\n1\r\n\r\n",
    "arcs.el": "# u sends to v\n0 1\n1 2\n\n% another comment\n2\t0\n4 2\n0 1\n",
    "weighted.tsv": "10\t20\t+0.5\r\n20\t30\t-1e-3\r\n10\t20\t1",
    "konect.txt": "% asym posweighted\n% 3 3 3\n1 2  1.25\n2 3  .5\n3 3 4\n",
}
for name, text in TEXT.items():
    (GOOD / name).write_bytes(text.encode())

# --- malformed files --------------------------------------------------------------------------------------
expected = {}


def bad(name, content, fragment):
    (BAD / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    expected[name] = fragment


MM = "%%MatrixMarket matrix coordinate real general\n"
bad("empty.mtx", "", "line 1: the file is empty")
bad("no_banner.mtx", "3 3 1\n1 1 1\n", "line 1: %%MatrixMarket is wanted")
bad("array.mtx", "%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n4\n", "line 1: format 'array' is not read")
bad("complex.mtx", "%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 1 0\n", "line 1: field 'complex'")
bad("hermitian.mtx", "%%MatrixMarket matrix coordinate real hermitian\n1 1 1\n1 1 1\n", "line 1: symmetry 'hermitian'")
bad("vector.mtx", "%%MatrixMarket vector coordinate real general\n1 1 1\n1 1 1\n", "line 1: object 'vector'")
bad("pattern_skew.mtx", "%%MatrixMarket matrix coordinate pattern skew-symmetric\n2 2 1\n2 1\n", "line 1: a pattern")
bad("banner_only.mtx", MM, "line 1: the file ends where the size line")
bad("short_size.mtx", MM + "3 3\n", "line 2: the line ends where the entries")
bad("negative_size.mtx", MM + "-3 3 1\n1 1 1\n", "line 2: rows '-3' is outside 0 ..")
bad("rows_2_40.mtx", MM + "1099511627776 1 1\n1 1 1\n", "line 2: rows '1099511627776' is outside 0 ..")
bad("rows_2_30.mtx", MM + "1073741824 1 1\n1 1 1\n", "line 2: 1073741824 x 1 for 1 entries is past 1048576")
bad("entries_2_40.mtx", MM + "3 3 1099511627776\n1 1 1\n", "line 2: 1099511627776 entries are promised but only 6 bytes")
bad("entries_2_63.mtx", MM + "3 3 9223372036854775808\n1 1 1\n", "line 2: entries '9223372036854775808' is outside")
bad("row_out.mtx", MM + "3 3 1\n4 1 1\n", "line 3: row '4' is outside 1 .. 3")
bad("column_zero.mtx", MM + "3 3 1\n1 0 1\n", "line 3: column '0' is outside 1 .. 3")
bad("missing_entry.mtx", MM + "3 3 2\n1 1 1.0000\n", "line 3: the file ends after 1 of the 2 entries that line 2")
bad("extra_entry.mtx", MM + "3 3 1\n1 1 1\n2 2 2\n", "line 4: more than the 1 entries that line 2")
bad("extra_token.mtx", MM + "3 3 1\n1 1 1 9\n", "line 3: '9' follows the value")
bad("no_value.mtx", MM + "3 3 1\n1 1   \n", "line 3: the line ends where a value")
bad("nan.mtx", MM + "3 3 1\n1 1 nan\n", "line 3: value 'nan' is not a finite double")
bad("overflow.mtx", MM + "3 3 1\n1 1 1e999\n", "line 3: value '1e999' is not a finite double")
bad("sum_overflow.mtx", MM + "1 1 2\n1 1 1e308\n1 1 1e308\n", "line 4:")
bad("integer_2_53.mtx", MM.replace("real", "integer") + "3 3 1\n1 1 9007199254740993\n", "line 3: value '9007199254740993'")
bad("integer_real.mtx", MM.replace("real", "integer") + "3 3 1\n1 1 1.5\n", "line 3: value '1.5' is not an integer")
bad("rectangle_symmetric.mtx", MM.replace("general", "symmetric") + "3 2 1\n1 1 1\n", "line 2: a symmetric matrix of 3 x 2")
bad("skew_diagonal.mtx", MM.replace("general", "skew-symmetric") + "2 2 1\n1 1 1\n", "line 3: entry (1, 1) is on the diagonal")
bad("binary.mtx", bytes(range(256)), "line 1: %%MatrixMarket is wanted")

bad("empty.graph", "", "line 1: the file is empty")
bad("header_word.graph", "three 2\n2\n1 3\n2\n", "line 1: vertices 'three' is not an integer")
bad("vertices_2_40.graph", "1099511627776 0\n", "line 1: vertices '1099511627776' is outside")
bad("vertices_2_31.graph", "2147483647 0\n", "line 1: 2147483647 vertices are promised but only 0 bytes")
bad("edges_2_62.graph", "2 4611686018427387904\n2\n1\n", "line 1: 4611686018427387904 edges are promised")
bad("few_lines.graph", "5 1\n2\n1\n", "line 3: the file ends after 2 of the 5 vertices")
bad("many_lines.graph", "2 1\n2\n1\n\n2\n", "line 5: more than the 2 vertices")
bad("wrong_m.graph", "3 3\n2\n1 3\n2\n", "line 1: 3 edges are promised, 6 neighbours wanted, but the lines list 4")
bad("asymmetric.graph", "3 1\n2 3\n\n\n", "line 2: vertex 1 lists 2, but 2 does not list 1")
bad("asymmetric_weight.graph", "2 1 1\n2 5\n1 6\n", "line 2: edge 1 - 2 weighs 5 here and 6")
bad("neighbour_out.graph", "2 1\n3\n1\n", "line 2: neighbour '3' is outside 1 .. 2")
bad("self_loop.graph", "2 1\n1 2\n1\n", "line 2: vertex 1 lists itself")
bad("bad_fmt.graph", "2 1 7\n2\n1\n", "line 1: fmt '7'")
bad("no_weight.graph", "2 1 1\n2\n1 1\n", "line 2: the line ends where an edge weight")
bad("ncon_huge.graph", "2 1 10 2000000000\n1 2\n1 1\n", "line 2: the line ends where a vertex weight")

bad("empty.el", "", "line 1: the file is empty")
bad("words.el", "alice bob\n", "line 1: id 'alice' is not an integer")
bad("one_id.el", "0 1\n2\n", "line 2: the line ends where the second id")
bad("negative.el", "0 1\n-1 2\n", "line 2: id '-1' is outside 0 ..")
bad("id_2_40.el", "0 1099511627776\n", "line 1: id '1099511627776' is outside")
bad("id_2_63.txt", "9223372036854775808 0\n", "line 1: id '9223372036854775808' is outside")
bad("id_2_30.tsv", "0\t1\n1\t1073741824\n", "line 2: id 1073741824 for 2 arcs is past 1048576")
bad("header_line.txt", "3 2\n0 1 1.0\n1 2 1.0\n", "line 2: a third field where line 1 has two")
bad("missing_weight.txt", "0 1 1.0\n1 2\n", "line 2: two fields where line 1 has three")
bad("four_fields.edgelist", "0 1 1.0 99\n", "line 1: '99' follows the weight")
bad("comma.txt", "0,1\n1,2\n", "line 1: id '0,1' is not an integer")
bad("nan.edgelist", "0 1 NaN\n", "line 1: weight 'NaN' is not a finite double")
bad("inf.edgelist", "0 1 -inf\n", "line 1: weight '-inf' is not a finite double")
bad("decimal_id.el", "0.5 1\n", "line 1: id '0.5' is not an integer")
bad("zero_bytes.el", bytes(16), "line 1: id")


def npy(header, data=b"", version=(1, 0)):
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def head(descr="'<f8'", shape="(2,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


bad("empty.npy", "", "byte 0: the file is empty")
bad("magic.npy", b"NUMPY" + bytes(40), "byte 0: the magic")
bad("version.npy", b"\x93NUMPY\x09\x00" + bytes(40), "byte 6: version 9.0")
bad("short_prefix.npy", b"\x93NUMPY\x01", "byte 7:")
bad("header_past_end.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "byte 8: a header of 4294967295 bytes")
bad("truncated.npy", npy(head(), bytes(9)), "the shape wants 16 bytes but 9 follow")
bad("trailing.npy", npy(head(), bytes(17)), "the shape wants 16 bytes but 17 follow")
bad("huge_shape.npy", npy(head(shape="(1099511627776, 1024)")), "but 0 follow")
bad("overflow_shape.npy", npy(head(shape="(70368744177664, 70368744177664)")), "the shape is past 2^63")
bad("extent_2_63.npy", npy(head(shape="(9223372036854775808,)")), "is outside 0 .. 2^47")
bad("negative_shape.npy", npy(head(shape="(-2,)")), "is outside 0 .. 2^47")
bad("complex.npy", npy(head("'<c16'"), bytes(32)), "type '<c16' is not read")
bad("object.npy", npy(head("'|O'"), bytes(32)), "type '|O' is not read")
bad("structured.npy", npy(head("[('a', '<f8')]"), bytes(16)), "structured arrays are not read")
bad("text.npy", npy(head("'<U4'"), bytes(32)), "an array of texts")
bad("no_shape.npy", npy("{'descr': '<f8', 'fortran_order': False, }"), "the header has no shape")
bad("twice.npy", npy("{'descr': '<f8', 'descr': '<f8', }"), "key 'descr' comes twice")
bad("not_a_dict.npy", npy("hello"), "byte 10: '{' is wanted")
bad("integer_2_60.npy", npy(head("'<i8'", "(1,)"), struct.pack("<q", 2**60 + 1)), "is not held exactly")


def archive(compression=zipfile.ZIP_DEFLATED, **members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        for name, value in members.items():
            if isinstance(value, np.ndarray):
                block = io.BytesIO()
                np.save(block, value)
                value = block.getvalue()
            if value is not None:
                z.writestr(zipfile.ZipInfo(name + ".npy"), value, compression)
    return out.getvalue()


def csr(**changes):
    members = dict(format=np.array(b"csr"), shape=np.array([2, 3]), indptr=np.array([0, 1, 3]),
                   indices=np.array([0, 1, 2], np.int32), data=np.array([1.0, 2.0, 3.0]))
    members.update(changes)
    return members


bad("empty.npz", "", "byte 0: the file is empty")
bad("not_zip.npz", b"PK\x03\x04" + b"x" * 200, "byte 0: not a zip archive")
bad("truncated.npz", archive(**csr())[:-30], "byte 0: not a zip archive")
bad("no_members.npz", b"PK\x05\x06" + bytes(18), "byte 0: member format.npy is missing")
bad("no_data.npz", archive(**csr(data=None)), "member data.npy is missing")
bad("bsr.npz", archive(**csr(format=np.array(b"bsr"))), "format 'bsr' is not read, csr, csc or coo")
bad("dia.npz", archive(**csr(format=np.array("dia"))), "format 'dia' is not read")
bad("shape_2_40.npz", archive(**csr(shape=np.array([2**40, 3]))), "1099511627776 x 3 is outside")
bad("shape_columns.npz", archive(**csr(shape=np.array([2, 2**31 - 1]))), "2 x 2147483647 for 3 entries is past")
bad("shape_3d.npz", archive(**csr(shape=np.array([2, 3, 1]))), "3 extents where two are wanted")
bad("shape_float.npz", archive(**csr(shape=np.array([2.0, 3.0]))), "integers are wanted here")
bad("column_out.npz", archive(**csr(indices=np.array([0, 1, 3]))), "entry 2: column 3 is outside 0 .. 2")
bad("column_negative.npz", archive(**csr(indices=np.array([-1, 1, 2]))), "entry 0: column -1 is outside 0 .. 2")
bad("indptr_falls.npz", archive(**csr(indptr=np.array([0, 4, 3]))), "offset 1: 4 is outside 0 .. 3")
bad("indptr_short.npz", archive(**csr(indptr=np.array([0, 3]))), "2 offsets for 2 rows, 3 wanted")
bad("indptr_less.npz", archive(**csr(indptr=np.array([0, 1, 2]))), "the last offset is 2, 3 indices are there")
bad("data_short.npz", archive(**csr(data=np.array([1.0]))), "1 values for 3 edges")
bad("data_nan.npz", archive(**csr(data=np.array([1.0, np.nan, 3.0]))), "value 1: nan is not finite")
bad("data_complex.npz", archive(**csr(data=np.array([1j, 2, 3]))), "type '<c16' is not read")
bad("member_not_npy.npz", archive(**csr(data=b"hello")), "the magic")
bad("bomb.npz", archive(**csr(data=npy(head(shape="(137438953472,)")))), "but 0 follow")
good = archive(zipfile.ZIP_STORED, **csr())
spot = good.index(struct.pack("<d", 2.0))
bad("bad_crc.npz", good[:spot] + b"\x01" + good[spot + 1:], "member data.npy: CRC error")
squeezed = archive(**csr(data=np.arange(3.0), indices=np.array([0, 1, 2])))
spot = squeezed.index(b"data.npy") + len("data.npy")
bad("bad_deflate.npz", squeezed[:spot] + b"\xff" * 12 + squeezed[spot + 12:], "member data.npy")
with io.BytesIO() as out:
    with zipfile.ZipFile(out, "w") as z:
        for name, value in csr().items():
            block = io.BytesIO()
            np.save(block, value)
            z.writestr(name + ".npy", block.getvalue())
        import warnings
        warnings.simplefilter("ignore")
        z.writestr("data.npy", block.getvalue())
    bad("duplicate_member.npz", out.getvalue(), "member data.npy comes twice")


def st(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(**changes):
    return {"q": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


bad("empty.safetensors", "", "byte 0: the file is empty")
bad("short.safetensors", "abc", "byte 0: 3 bytes, at least 8")
bad("header_2_60.safetensors", st(one(), bytes(8), 2**60), "byte 0: a header of 1152921504606846976 bytes")
bad("header_past_end.safetensors", st(one(), bytes(8), 500), "byte 0: a header of 500 bytes")
bad("not_json.safetensors", st(b"{hello}"), "the header is not JSON here")
bad("not_object.safetensors", st(b"[1, 2]"), "byte 8: the header must begin with '{'")
bad("deep.safetensors", st(b'{"q":' + b"[" * 5000 + b"]" * 5000 + b"}"), "nests deeper")
bad("duplicate.safetensors", st(b'{"q":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                b'"q":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), "'q' comes twice")
bad("past_end.safetensors", st(one(data_offsets=[0, 16], shape=[4]), bytes(8)), "do not lie within the 8 bytes")
bad("reversed.safetensors", st(one(data_offsets=[8, 0]), bytes(8)), "data_offsets 8 .. 0")
bad("negative.safetensors", st(one(data_offsets=[-8, 0]), bytes(8)), "data_offsets must be whole numbers")
bad("size_mismatch.safetensors", st(one(shape=[3]), bytes(8)), "shape and F32 want 12 bytes but data_offsets hold 8")
bad("huge_shape.safetensors", st(one(shape=[2**40, 2**40]), bytes(8)), "want over 2^63 bytes")
bad("extent_2_60.safetensors", st(one(shape=[2**60]), bytes(8)), "extent 1152921504606846976 is outside")
bad("overlap.safetensors", st({**one(), "k": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)), "overlap")
bad("gap.safetensors", st(one(data_offsets=[4, 12]), bytes(12)), "leave gaps")
bad("trailing.safetensors", st(one(), bytes(9)), "1 bytes follow the last tensor")
bad("integers.safetensors", st(one(dtype="I32"), bytes(8)), "tensor 'q' has type 'I32', F64, F32, F16 or BF16 wanted")
bad("unknown_type.safetensors", st(one(dtype="F7"), bytes(8)), "tensor 'q' has type 'F7'")
bad("no_dtype.safetensors", st({"q": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "dtype is missing")
bad("entry_number.safetensors", st({"q": 7}, bytes(8)), "tensor 'q': dtype is missing")
bad("metadata_number.safetensors", st({"__metadata__": {"a": 1}}), "__metadata__ 'a' is not a text")

(BAD / "expected.tsv").write_text("".join(f"{k}\t{v}\n" for k, v in sorted(expected.items())))
print(len(expected), "malformed files")

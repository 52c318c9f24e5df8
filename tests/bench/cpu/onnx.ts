/** ONNX models of one node, for the peers: just enough of the format's protobuf encoding to write them. */
const encoder = new TextEncoder();

type Bytes = Uint8Array;

const join = (...parts: readonly Bytes[]): Bytes => {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

function varint(value: number): Bytes {
  const bytes: number[] = [];
  let rest = BigInt(value);
  do {
    const low = Number(rest & 127n);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 128 : low);
  } while (rest > 0n);
  return Uint8Array.from(bytes);
}

const int = (field: number, value: number): Bytes => join(varint(field << 3), varint(value));
const bytes = (field: number, value: Bytes): Bytes => join(varint(field << 3 | 2), varint(value.length), value);
const text = (field: number, value: string): Bytes => bytes(field, encoder.encode(value));

interface Initializer {
  readonly name: string;
  readonly type: 1 | 2;
  readonly shape: readonly number[];
  readonly data: Bytes;
}

const value = (name: string, shape: readonly number[]): Bytes => {
  const dims = join(...shape.map((dim) => bytes(1, int(1, dim))));
  return join(text(1, name), bytes(2, bytes(1, join(int(1, 1), bytes(2, dims)))));
};

/** A model y = op(x, initializers), all in f32 but the initializers. */
function model(
  op: string,
  domain: string,
  x: readonly number[],
  y: readonly number[],
  initializers: readonly Initializer[],
  attributes: Readonly<Record<string, number>> = {},
): Bytes {
  const inputs = ["x", ...initializers.map(({ name }) => name)].map((name) => text(1, name));
  const attrs = Object.entries(attributes).map(([name, n]) => bytes(5, join(text(1, name), int(3, n), int(20, 2))));
  const node = join(...inputs, text(2, "y"), text(3, "node"), text(4, op), ...attrs, text(7, domain));
  const tensors = initializers.map(({ name, type, shape, data }) =>
    bytes(5, join(...shape.map((dim) => int(1, dim)), int(2, type), text(8, name), bytes(9, data)))
  );
  const graph = join(bytes(1, node), text(2, "graph"), ...tensors, bytes(11, value("x", x)), bytes(12, value("y", y)));
  const opset = (name: string, version: number) => bytes(8, join(text(1, name), int(2, version)));
  return join(int(1, 8), bytes(7, graph), opset("", 17), opset("com.microsoft", 1));
}

const floats = (length: number): Bytes =>
  new Uint8Array(Float32Array.from({ length }, () => Math.random() - 0.5).buffer);
const codes = (length: number): Bytes => Uint8Array.from({ length }, () => Math.random() * 256);

/** x [m,k] times a constant [k,n] in f32. */
export const matMul = (m: number, n: number, k: number): Bytes =>
  model("MatMul", "", [m, k], [m, n], [{ name: "w", type: 1, shape: [k, n], data: floats(k * n) }]);

/** x [m,k] times codes of `bits` in groups; accuracy level 4 quantizes activations to int8, 0 does not. */
export function matMulNBits(m: number, n: number, k: number, bits: number, group: number, level: number): Bytes {
  const groups = k / group, blob = group * bits / 8, zeros = Math.ceil(groups * bits / 8);
  return model(
    "MatMulNBits",
    "com.microsoft",
    [m, k],
    [m, n],
    [
      { name: "w", type: 2, shape: [n, groups, blob], data: codes(n * groups * blob) },
      { name: "s", type: 1, shape: [n * groups], data: floats(n * groups) },
      { name: "z", type: 2, shape: [n * zeros], data: codes(n * zeros) },
    ],
    { K: k, N: n, bits, block_size: group, accuracy_level: level },
  );
}

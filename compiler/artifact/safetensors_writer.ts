/**
 * @file Writing safetensors files. The same tensors and metadata give the same bytes, whatever order they come in, and
 * tensors are produced one at a time, so that a model larger than the memory can be written.
 */
import { type Dtype, DTYPE_BYTES } from "../frontends/safetensors.ts";
import { writeAtomically } from "./atomic_write.ts";

/** A tensor to be written. */
export interface OutputTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Its values, little-endian and row-major; called once, when its turn comes. */
  readonly data: () => Uint8Array | Promise<Uint8Array>;
}

/**
 * Writes a safetensors file atomically.
 *
 * @param metadata strings for the header, which every reader can show
 * @throws {UserError} if `path` cannot be written
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly OutputTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeAtomically(path, encodeSafetensors(tensors, metadata));
}

/** The bytes of a safetensors file, in pieces: the header, then each tensor. */
export async function* encodeSafetensors(
  tensors: readonly OutputTensor[],
  metadata: Readonly<Record<string, string>> = {},
): AsyncGenerator<Uint8Array> {
  const ordered = [...tensors].sort(byAlignmentThenName);
  yield encodeHeader(ordered, metadata);
  for (const tensor of ordered) {
    const bytes = await tensor.data();
    if (bytes.length !== byteSize(tensor)) {
      throw new Error(
        `Internal error: expected ${byteSize(tensor)} bytes for tensor ${tensor.name} but found ${bytes.length}`,
      );
    }
    yield bytes;
  }
}

/** Wide values first: as the data starts at a multiple of 8, every tensor is then aligned to its values. */
function byAlignmentThenName(a: OutputTensor, b: OutputTensor): number {
  return DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || compareText(a.name, b.name);
}

function encodeHeader(tensors: readonly OutputTensor[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const names = new Set(tensors.map((tensor) => tensor.name).concat("__metadata__"));
  if (names.size !== tensors.length + 1) throw new Error("Internal error: two tensors to be written share one name");
  // Assembled by hand, because objects move keys such as "0" to the front and cannot hold "__proto__".
  const field = (key: string, value: unknown) => `${JSON.stringify(key)}:${JSON.stringify(value)}`;
  const sorted = Object.entries(metadata).sort(([a], [b]) => compareText(a, b));
  const fields = sorted.length ? [`"__metadata__":{${sorted.map(([key, value]) => field(key, value)).join(",")}}`] : [];
  let end = 0;
  for (const tensor of tensors) {
    const begin = end;
    end += byteSize(tensor);
    fields.push(field(tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] }));
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(" ".charCodeAt(0));
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, 8);
  return header;
}

const byteSize = ({ dtype, shape }: OutputTensor) => shape.reduce((product, n) => product * n, DTYPE_BYTES[dtype]);

const compareText = (a: string, b: string) => a < b ? -1 : a > b ? 1 : 0;

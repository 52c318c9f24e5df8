/**
 * @file The safetensors file format, read lazily: opening reads the header alone, each tensor is one byte range. The
 * header of a stranger's file is checked in full before any tensor is touched, with the rules of the format's reference
 * implementation: tensors tile the data without gaps or overlaps, and each is as long as its shape and type say.
 */
import { quote, UserError } from "../../ir/errors.ts";
import { toFloats } from "./floats.ts";
import { findDuplicateKey, isJsonObject, type JsonObject, parseJsonObject } from "./json.ts";
import type { ByteSource } from "./source.ts";

/** Bytes per value of every type the format names whose values fill whole bytes. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
} as const;

/** A type as the header spells it. */
export type Dtype = keyof typeof DTYPE_BYTES;

/** What the header says about one tensor. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Position of the first byte, from the start of the file. */
  readonly offset: number;
  /** Size in bytes. */
  readonly length: number;
}

/** An open file: its table of contents and access to its tensors. */
export interface SafetensorsFile {
  readonly name: string;
  /** By name, in the order of the data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  /** The tensor's bytes, little-endian, a fresh copy. */
  bytes(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** The bytes of several tensors, by name, which may share a buffer; those that lie near each other are read at once. */
  read(names: readonly string[]): Promise<ReadonlyMap<string, Uint8Array<ArrayBuffer>>>;
  /** The tensor's values, row-major; F64, F16 and BF16 are converted, integers are refused. */
  floats(name: string): Promise<Float32Array<ArrayBuffer>>;
}

/** The reference implementation's limit; the header of a model with 100,000 tensors takes about 10 MB. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Opens a safetensors file, reading its header only.
 *
 * @throws {UserError} if the header is not one that the reference implementation would accept
 */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  const header = await readHeader(source);
  const metadata = readMetadata(header.json["__metadata__"], source.name);
  const infos = Object.entries(header.json)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, record]) => readInfo(name, record, header.end, source));
  infos.sort((a, b) => a.offset - b.offset || a.length - b.length);
  checkTiling(infos, header.end, source);
  const tensors = new Map(infos.map((info) => [info.name, info]));

  const find = (name: string): TensorInfo => {
    const info = tensors.get(name);
    if (!info) throw damaged(source.name, `Expected a tensor ${quote(name)} but found none of that name`);
    return info;
  };
  return {
    name: source.name,
    tensors,
    metadata,
    bytes: (name) => Promise.try(() => find(name)).then(({ offset, length }) => source.read(offset, length)),
    read: async (names) => {
      const parts = await source.readAll(names.map(find));
      return new Map(names.map((name, i) => [name, parts[i] ?? new Uint8Array()]));
    },
    floats: async (name) => {
      const { dtype, offset, length } = find(name);
      return toFloats(await source.read(offset, length), dtype, name, source.name);
    },
  };
}

async function readHeader(source: ByteSource): Promise<{ json: JsonObject; end: number }> {
  if (source.size < 8) {
    throw damaged(
      source.name,
      `Expected a safetensors file but found ${source.size} bytes, fewer than its first field`,
    );
  }
  const prefix = await source.read(0, 8);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(Math.min(MAX_HEADER_BYTES, source.size - 8))) {
    throw damaged(
      source.name,
      `Expected a header that fits the file's ${source.size} bytes but found one of ${length}`,
    );
  }
  const bytes = await source.read(8, Number(length));
  if (bytes[0] !== "{".charCodeAt(0)) {
    throw damaged(source.name, `Expected a header that starts with "{" but found byte ${bytes[0] ?? "none"}`);
  }
  const json = parseJsonObject(bytes, source.name);
  const twice = findDuplicateKey(new TextDecoder().decode(bytes));
  if (twice !== null) {
    throw damaged(source.name, `Expected distinct keys in the header but found ${quote(twice)} twice`);
  }
  return { json, end: 8 + bytes.length };
}

function readMetadata(record: unknown, file: string): Map<string, string> {
  if (record === undefined) return new Map();
  if (!isJsonObject(record)) throw damaged(file, `Expected "__metadata__" to be an object but found ${quote(record)}`);
  return new Map(
    Object.entries(record).map(([key, value]) => {
      if (typeof value === "string") return [key, value];
      throw damaged(file, `Expected metadata ${quote(key)} to be a string but found ${quote(value)}`);
    }),
  );
}

function readInfo(name: string, record: unknown, dataStart: number, source: ByteSource): TensorInfo {
  const fail = (expected: string, found: unknown): never => {
    throw damaged(source.name, `Expected ${expected} of tensor ${quote(name)} but found ${quote(found)}`);
  };
  if (!isJsonObject(record)) return fail("an object as description", record);
  const { dtype, shape, data_offsets: offsets } = record;
  if (!isDtype(dtype)) return fail("a known dtype", dtype);
  if (!isSizes(shape)) return fail("non-negative integers as shape", shape);
  if (!isSizes(offsets) || offsets.length !== 2) return fail("two non-negative integers as data_offsets", offsets);
  const [begin = 0, end = 0] = offsets;
  const dataSize = source.size - dataStart;
  if (begin > end || end > dataSize) return fail(`data_offsets within the file's ${dataSize} bytes of data`, offsets);
  const size = byteSize(shape, DTYPE_BYTES[dtype]);
  if (size === null) return fail("a shape of representable size", shape);
  if (size !== end - begin) return fail(`${size} bytes for ${dtype} ${quote(shape)}`, offsets);
  return { name, dtype, shape, offset: dataStart + begin, length: end - begin };
}

/** Null on overflow, also where a later zero would hide it, since other readers multiply in 64 bits and would wrap. */
function byteSize(shape: readonly number[], bytesPerValue: number): number | null {
  let size = bytesPerValue;
  let overflows = false;
  for (const n of shape) {
    size *= n;
    overflows ||= size > Number.MAX_SAFE_INTEGER;
  }
  return overflows ? null : size;
}

/** Sorted by position, each tensor must start where the one before it ends, and the last must end with the file. */
function checkTiling(infos: readonly TensorInfo[], dataStart: number, source: ByteSource): void {
  let end = dataStart;
  for (const { name, offset, length } of infos) {
    if (offset !== end) {
      const kind = offset < end ? "an overlap with the tensor before" : "a gap in front";
      throw damaged(
        source.name,
        `Expected tensor ${quote(name)} to start at data byte ${end - dataStart} but found ${kind}`,
      );
    }
    end += length;
  }
  if (end !== source.size) {
    throw damaged(
      source.name,
      `Expected the file to end at byte ${end}, with its last tensor, but found ${source.size} bytes`,
    );
  }
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(DTYPE_BYTES, value);
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

const damaged = (file: string, what: string) =>
  new UserError({ what, where: quote(file), mend: "use an intact safetensors file" });

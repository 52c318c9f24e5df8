/**
 * How tensors lie in GPU buffers. Nothing outside this backend sees it: `upload` packs, `download` unpacks.
 *
 * | types | storage |
 * | --- | --- |
 * | f32, i32, bool | one 32-bit word per element |
 * | f16 | two per word, all elements as one sequence |
 * | u8, i4 … i8 | bytes, four per word; each row of the last axis starts a word |
 * | u2 … u7 | split fields (3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1); each row of the last axis is whole blocks of 32 |
 *
 * A block of 32 codes has, for each field of f bits, f words: byte i of them (0 ≤ i < 4f) holds element i + 4f·j at bit f·j. So four
 * consecutive elements are the four bytes of one word after a shift and a mask. The widest field comes first and has the low bits.
 */
import { type HostArray, hostArray } from "../backend.ts";
import { halfBits, halfValue } from "../../ir/numerics.ts";
import { fromStored, spreadTwos, TWOS_PER_BYTE } from "../stored.ts";
import { bitsOf, concreteShape, type DType, sizeOf, type TensorType } from "../../ir/types.ts";

/** The storage of one type. */
export interface Layout {
  readonly kind: "words" | "halves" | "bytes" | "fields";
  /** Elements of the last axis: the unit of padding. */
  readonly rowLength: number;
  /** Words of one padded row; for halves of everything. */
  readonly rowWords: number;
  /** Words in all. */
  readonly words: number;
  /** Bits of each field, widest first. */
  readonly fields: readonly number[];
  /** Whether bytes are sign-extended. */
  readonly signed: boolean;
}

/** Codes per block of split fields. */
export const BLOCK = 32;

const FIELDS: Readonly<Partial<Record<DType, readonly number[]>>> = {
  u2: [2],
  u3: [2, 1],
  u4: [4],
  u5: [4, 1],
  u6: [4, 2],
  u7: [4, 2, 1],
};

/** The storage of a type with a concrete shape. */
export function layoutOf({ dtype, shape }: TensorType): Layout {
  const size = sizeOf(shape), rowLength = concreteShape(shape).at(-1) ?? 1, rows = size / rowLength;
  const signed = dtype.startsWith("i") && dtype !== "i32", fields = FIELDS[dtype];
  const layout = (kind: Layout["kind"], rowWords: number, words: number) => ({
    kind,
    rowLength,
    rowWords,
    words,
    fields: fields ?? [],
    signed,
  });
  if (fields) {
    const rowWords = Math.ceil(rowLength / BLOCK) * bitsOf(dtype);
    return layout("fields", rowWords, rows * rowWords);
  }
  if (dtype === "f16") return layout("halves", Math.ceil(size / 2), Math.ceil(size / 2));
  if (bitsOf(dtype) <= 8) {
    const rowWords = Math.ceil(rowLength / 4);
    return layout("bytes", rowWords, rows * rowWords);
  }
  return layout("words", rowLength, size);
}

/** Bytes of a buffer that holds a tensor. */
export const bytesOf = (type: TensorType): number => layoutOf(type).words * 4;

/** Where the bits of one code are: a shift to the right by `from` and `bits` bits put at bit `to` of word `word` of its block. */
export interface FieldPlace {
  readonly word: number;
  readonly from: number;
  readonly bits: number;
  readonly to: number;
}

/** The places of element i of a block of split fields. */
export function fieldPlaces(fields: readonly number[], i: number): FieldPlace[] {
  let word = 0, from = 0;
  return fields.map((bits) => {
    const byte = i % (4 * bits), turn = Math.floor(i / (4 * bits));
    const place = { word: word + (byte >> 2), from, bits, to: 8 * (byte & 3) + bits * turn };
    word += bits;
    from += bits;
    return place;
  });
}

/** The places of all elements of a block. */
const placesOf = ({ kind, fields }: Layout): readonly (readonly FieldPlace[])[] =>
  kind === "fields" ? Array.from({ length: BLOCK }, (_, i) => fieldPlaces(fields, i)) : [];

const wordsOfBlock = ({ rowWords, rowLength }: Layout): number => rowWords / Math.ceil(rowLength / BLOCK);

/**
 * Packs host values.
 *
 * @throws {RangeError} If the number of values is not the type's.
 */
export function pack(type: TensorType, values: HostArray): Uint32Array<ArrayBuffer> {
  const layout = layoutOf(type), { kind, rowLength, rowWords } = layout, size = sizeOf(type.shape);
  if (values.length !== size) throw new RangeError(`Expected ${size} values but found ${values.length}`);
  const words = new Uint32Array(layout.words);
  if (kind === "words") {
    const typed = type.dtype === "f32" ? new Float32Array(words.buffer) : new Int32Array(words.buffer);
    typed.set(values);
    return words;
  }
  const or = (word: number, bits: number) => words[word] = (words[word] ?? 0) | bits;
  const places = placesOf(layout), blockWords = wordsOfBlock(layout);
  for (let i = 0; i < size; i++) {
    const value = values[i] ?? 0, row = Math.floor(i / rowLength) * rowWords, column = i % rowLength;
    if (kind === "halves") or(i >> 1, halfBits(value) << 16 * (i & 1));
    else if (kind === "bytes") or(row + (column >> 2), (value & 255) << 8 * (column & 3));
    else {
      const block = row + Math.floor(column / BLOCK) * blockWords;
      for (const { word, from, bits, to } of places[column % BLOCK] ?? []) {
        or(block + word, ((value >> from) & ((1 << bits) - 1)) << to);
      }
    }
  }
  return words;
}

/** Packs values as files hold them; see stored.ts. */
export function packStored(type: TensorType, stored: Uint8Array): Uint32Array<ArrayBuffer> {
  const layout = layoutOf(type), { kind, rowLength, rowWords } = layout, rows = sizeOf(type.shape) / rowLength;
  if (type.dtype === "u2") {
    const words = new Uint32Array(layout.words), rowStored = rowLength / TWOS_PER_BYTE, blocks = rowWords / 2;
    for (let block = 0; block < rows * blocks; block++) {
      const row = Math.floor(block / blocks), from = row * rowStored + block % blocks * (BLOCK / TWOS_PER_BYTE);
      spreadTwos(stored, from, (row + 1) * rowStored, 2, words, 2 * block);
    }
    return words;
  }
  const isCopy = kind === "words" || kind === "halves" || (kind === "bytes" && rowLength % 4 === 0);
  if (!isCopy) return pack(type, fromStored(type.dtype, stored));
  const words = new Uint32Array(layout.words);
  new Uint8Array(words.buffer).set(stored);
  return words;
}

/** Inverse of `pack`. */
export function unpack(type: TensorType, words: Uint32Array<ArrayBuffer>): HostArray {
  const layout = layoutOf(type), { kind, rowLength, rowWords, signed } = layout, size = sizeOf(type.shape);
  if (kind === "words") {
    return type.dtype === "f32" ? new Float32Array(words.buffer, 0, size) : new Int32Array(words.buffer, 0, size);
  }
  const values = hostArray(type.dtype, size), places = placesOf(layout), blockWords = wordsOfBlock(layout);
  for (let i = 0; i < size; i++) {
    const row = Math.floor(i / rowLength) * rowWords, column = i % rowLength;
    if (kind === "halves") values[i] = halfValue(((words[i >> 1] ?? 0) >>> 16 * (i & 1)) & 0xffff);
    else if (kind === "bytes") {
      const byte = ((words[row + (column >> 2)] ?? 0) >>> 8 * (column & 3)) & 255;
      values[i] = signed ? (byte << 24) >> 24 : byte;
    } else {
      const block = row + Math.floor(column / BLOCK) * blockWords;
      let code = 0;
      for (const { word, from, bits, to } of places[column % BLOCK] ?? []) {
        code |= (((words[block + word] ?? 0) >>> to) & ((1 << bits) - 1)) << from;
      }
      values[i] = code;
    }
  }
  return values;
}

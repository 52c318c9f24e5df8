/** Writes of whole words of narrow types: four neighbours as a word of bytes, 32 as the words of a block of split fields. */
import { halfBits, hex } from "./access.ts";
import { BLOCK, type Layout } from "./layout.ts";
import { sumText, wrap } from "./text.ts";
import type { BufferView, Writer } from "./writer.ts";

/** Where four neighbours start. */
interface Start {
  readonly flat: string;
  readonly row: string;
  readonly column: string;
}

/** Lines that write four neighbours, `four`, as a word of bytes or as two words of half floats. */
export function packWord(writer: Writer, view: BufferView, { flat, row, column }: Start, four: string): string[] {
  const { name, layout } = view;
  if (layout.kind === "halves") return [`${fourHalvesWriter(writer, view)}(${flat}, ${four});`];
  const packed = layout.signed ? `pack4xI8(${four})` : `pack4xU8(vec4<u32>(${four}))`;
  return [`${name}[${rowStart(row, layout.rowWords)}${wrap(column)} / 4u] = ${packed};`];
}

const fourHalvesWriter = (writer: Writer, { name: buffer }: BufferView): string => {
  const half = halfBits(writer);
  return writer.helper(`write4_${buffer}`, (name) => [
    `fn ${name}(element: u32, four: vec4<f32>) {`,
    `  ${buffer}[element / 2u] = ${half}(four.x) | (${half}(four.y) << 16u);`,
    `  ${buffer}[element / 2u + 1u] = ${half}(four.z) | (${half}(four.w) << 16u);`,
    "}",
  ]);
};

const rowStart = (row: string, rowWords: number): string =>
  row === "0u" ? "" : `${sumText([{ name: wrap(row), stride: rowWords }], 0)} + `;

/** First word of the block at a column, within its row; the column is mostly that of block number `block`. */
const blockStart = (column: string, width: number): string =>
  column === FIRST_OF_BLOCK ? `block * ${width}u` : `${wrap(column)} / ${BLOCK}u * ${width}u`;

/** Column of the first code of block number `block`. */
export const FIRST_OF_BLOCK = `(block * ${BLOCK}u)`;

/** Collects the words of one block in registers. */
export interface FieldPacking {
  readonly declare: string[];
  /** Lines that add four codes, number `quad` of the block. */
  collect(four: string, quad: string): string[];
  /** Lines that write the block that starts at a place. */
  store(start: Start): string[];
}

/** Packing of blocks for one buffer. */
export function packFields(writer: Writer, { name, layout }: BufferView): FieldPacking {
  const width = layout.fields.reduce((sum, bits) => sum + bits, 0);
  const words = writer.names.unique(`${name}_words`), codes = writer.names.unique(`${name}_four`);
  return {
    declare: [`var ${words}: array<u32, ${width}>;`],
    collect: (
      four,
      quad,
    ) => [
      `let ${codes} = pack4xU8(vec4<u32>(${four}));`,
      ...fieldsOf(layout.fields, codes, quad).map(({ word, bits }) => `${words}[${word}] |= ${bits};`),
    ],
    store: ({ row, column }) => [
      `for (var word = 0u; word < ${width}u; word++) {`,
      `  ${name}[${rowStart(row, layout.rowWords)}${blockStart(column, width)} + word] = ${words}[word];`,
      "}",
    ],
  };
}

/** For every field the word of the block that holds four codes (bytes of the u32 `codes`; one code with `repeat` 1), and their bits there. */
export function fieldsOf(
  fields: readonly number[],
  codes: string,
  quad: string,
  repeat = 0x01010101,
): { word: string; bits: string }[] {
  let plane = 0, from = 0;
  return fields.map((bits) => {
    const low = from === 0 ? codes : `(${codes} >> ${from}u)`,
      turn = bits === 1 ? quad : `(${bits}u * (${quad} / ${bits}u))`;
    const start = plane === 0 ? "" : `${plane}u`, inner = bits === 1 ? "" : `${quad} % ${bits}u`;
    const place = {
      word: [start, inner].filter((part) => part !== "").join(" + ") || "0u",
      bits: `(${low} & ${hex((2 ** bits - 1) * repeat)}) << ${turn}`,
    };
    plane += bits;
    from += bits;
    return place;
  });
}

/** Where the bits of one code go, number `i` of a row that starts at a word's start: word and bits, for every field. */
export function codePieces({ kind, fields }: Layout, value: string, i: string): { word: string; bits: string }[] {
  if (kind === "bytes") return [{ word: `${i} / 4u`, bits: `(u32(${value}) & 255u) << (${i} % 4u * 8u)` }];
  const width = fields.reduce((sum, bits) => sum + bits, 0);
  return fieldsOf(fields, `u32(${value})`, `(${i} % ${BLOCK}u / 4u)`, 1).map(({ word, bits }) => ({
    word: `${i} / ${BLOCK}u * ${width}u + ${word}`,
    bits: `(${bits}) << (${i} % 4u * 8u)`,
  }));
}

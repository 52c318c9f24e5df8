/** Reads and writes of buffers: from affine accesses to WGSL text in every storage layout, for one element or four neighbours. */
import type { Access, Scalar } from "../kernel.ts";
import { BLOCK, type Layout } from "./layout.ts";
import { indent, sumText, type Term, typeText, wrap } from "./text.ts";
import type { BufferView, Writer } from "./writer.ts";

/** Where expressions are evaluated: the names of the loop variables, and along which one four neighbours are taken at once. */
export interface Place {
  readonly vars: readonly string[];
  readonly extents: readonly number[];
  /** An axis whose variable is a multiple of 4. */
  readonly vector?: number;
}

/** A row chosen by data: its number as u32 text. */
export interface Chosen {
  readonly name: string;
  readonly stride: number;
  readonly extent: number;
}

/** An element within its buffer. */
interface Located {
  /** Number of the element. */
  readonly flat: string;
  /** The same over 4, where `aligned`. */
  readonly quad: string;
  /** Number of its padded row, and its place in it. */
  readonly row: string;
  readonly column: string;
  /** Whether it starts four neighbours that lie in one word or vec4. */
  readonly aligned: boolean;
}

interface Axis extends Term {
  readonly extent: number;
  readonly vector: boolean;
}

/** Finds the element of an access, `shift` steps along the vector axis. */
export function locate(layout: Layout, access: Access, place: Place, chosen?: Chosen, shift = 0): Located {
  const vectorStride = place.vector === undefined ? 0 : access.strides[place.vector] ?? 0;
  const offset = access.offset + shift * vectorStride;
  const axes: Axis[] = place.vars.map((name, i) => ({
    name,
    stride: access.strides[i] ?? 0,
    extent: place.extents[i] ?? 1,
    vector: i === place.vector,
  }));
  if (chosen) axes.push({ ...chosen, vector: false });
  const used = axes.filter(({ stride, extent }) => stride !== 0 && extent > 1);
  const whole = (divisor: number) => used.every(({ vector, stride }) => vector ? stride === 1 : stride % divisor === 0);
  const even = vectorStride === 1 && offset % 4 === 0 && whole(4);
  const flat = sumText(used, offset);
  const quarter = (terms: readonly Axis[], start: number) =>
    sumText(
      terms.map(({ name, stride, vector }) =>
        vector ? { name: `${name} / 4u`, stride: 1 } : { name, stride: stride / 4 }
      ),
      start / 4,
    );
  const quad = even ? quarter(used, offset) : "";
  if (layout.kind === "words" || layout.kind === "halves") return { flat, quad, row: "", column: "", aligned: even };
  const parts = splitRows(used, offset, layout.rowLength);
  if (!parts) {
    const length = `${layout.rowLength}u`, at = wrap(flat);
    return {
      flat,
      quad,
      row: `${at} / ${length}`,
      column: `${at} % ${length}`,
      aligned: even && layout.rowLength % 4 === 0,
    };
  }
  const aligned = vectorStride === 1 && parts.start % 4 === 0 && parts.columns.some(({ vector }) => vector) &&
    parts.columns.every(({ vector, stride }) => vector ? stride === 1 : stride % 4 === 0);
  return { flat, quad, row: sumText(parts.rows, parts.first), column: sumText(parts.columns, parts.start), aligned };
}

/** Separates an access into row and column where no column can run over, so that no division is left. */
export function splitRows(axes: readonly Axis[], offset: number, length: number) {
  if (offset < 0 || axes.some(({ stride }) => stride < 0)) return undefined;
  const start = offset % length;
  const columns = axes.map((axis) => ({ ...axis, stride: axis.stride % length })).filter(({ stride }) => stride > 0);
  if (start + columns.reduce((sum, { stride, extent }) => sum + stride * (extent - 1), 0) >= length) return undefined;
  const rows = axes.map((axis) => ({ ...axis, stride: Math.floor(axis.stride / length) })).filter(({ stride }) =>
    stride > 0
  );
  return { rows, first: Math.floor(offset / length), columns, start };
}

/** Text that reads one element, or four neighbours along the vector axis (`vector`). */
export function readText(
  writer: Writer,
  buffer: number,
  scalar: Scalar,
  { access, place, vector, chosen }: { access: Access; place: Place; vector: boolean; chosen?: Chosen },
): string {
  const view = writer.view(buffer), at = (shift: number) => locate(view.layout, access, place, chosen, shift);
  if (!vector) return readOne(writer, view, at(0));
  const located = at(0);
  if (located.aligned) {
    const text = readFour(writer, view, located);
    if (text) return text;
  }
  return `${typeText(scalar, true)}(${[0, 1, 2, 3].map((shift) => readOne(writer, view, at(shift))).join(", ")})`;
}

/** One element at a place that is already text. */
export function readOne(
  writer: Writer,
  view: BufferView,
  { flat, row, column }: Pick<Located, "flat" | "row" | "column">,
): string {
  switch (view.layout.kind) {
    case "words":
      writer.markSingle(view.index);
      return view.buffer.type.dtype === "bool" ? `(${view.name}[${flat}] != 0u)` : `${view.name}[${flat}]`;
    case "halves":
      if (!view.halves) return `${halfReader(writer, view)}(${flat})`;
      writer.markSingle(view.index);
      return `f32(${view.name}[${flat}])`;
    default:
      return `${codeReader(writer, view)}(${row}, ${column})`;
  }
}

function readFour(
  writer: Writer,
  view: BufferView,
  { flat, quad, row, column }: Located,
): string | undefined {
  switch (view.layout.kind) {
    case "words":
      if (!view.wide) return undefined;
      return view.buffer.type.dtype === "bool" ? `(${view.name}[${quad}] != vec4<u32>())` : `${view.name}[${quad}]`;
    case "halves":
      if (!view.halves) return `${fourHalvesReader(writer, view)}(${flat})`;
      return view.wide ? `vec4<f32>(${view.name}[${quad}])` : undefined;
    default:
      return `${fourCodesReader(writer, view)}(${row}, ${column})`;
  }
}

/** Notes that packed words are read one by one, and gives the writer back. */
function singleWords(writer: Writer, { index }: BufferView): Writer {
  writer.markSingle(index);
  return writer;
}

const word = (view: BufferView, index: string): string =>
  view.atomic ? `atomicLoad(&${view.name}[${index}])` : `${view.name}[${index}]`;

const halfReader = (writer: Writer, view: BufferView): string =>
  singleWords(writer, view).helper(`read_${view.name}`, (name) => [
    `fn ${name}(element: u32) -> f32 {`,
    `  return unpack2x16float(${word(view, "element / 2u")})[element % 2u];`,
    "}",
  ]);

const fourHalvesReader = (writer: Writer, view: BufferView): string =>
  singleWords(writer, view).helper(`read4_${view.name}`, (name) => [
    `fn ${name}(element: u32) -> vec4<f32> {`,
    `  let low = unpack2x16float(${word(view, "element / 2u")});`,
    `  let high = unpack2x16float(${word(view, "element / 2u + 1u")});`,
    "  return vec4<f32>(low, high);",
    "}",
  ]);

/** The lines that find the words of a block, and for every field its word and shift; `quad` is the number of four in the block. */
function fieldLines(
  { layout }: BufferView,
  piece: (index: string, mask: number, shift: string, from: number, bits: number) => string,
): string[] {
  const width = layout.fields.reduce((sum, bits) => sum + bits, 0);
  const lines = [
    `let block = ${
      sumText([{ name: "row", stride: layout.rowWords }, { name: `column / ${BLOCK}u`, stride: width }], 0)
    };`,
    `let quad = column % ${BLOCK}u / 4u;`,
  ];
  let plane = 0, from = 0;
  for (const bits of layout.fields) {
    const start = plane === 0 ? "block" : `block + ${plane}u`;
    lines.push(
      piece(
        bits === 1 ? start : `${start} + quad % ${bits}u`,
        2 ** bits - 1,
        `${bits === 1 ? "" : `${bits}u * `}(quad / ${bits}u)`,
        from,
        bits,
      ),
    );
    plane += bits;
    from += bits;
  }
  return lines.map((line) => bitsOne(line));
}

const bitsOne = (line: string): string => line.replaceAll("(quad / 1u)", "quad");

function codeReader(writer: Writer, view: BufferView): string {
  writer.markSingle(view.index);
  const { layout } = view;
  return writer.helper(`read_${view.name}`, (name) => {
    if (layout.kind === "bytes") {
      const place = `let bits = ${word(view, `row * ${layout.rowWords}u + column / 4u`)} >> (column % 4u * 8u);`;
      const result = layout.signed ? "return i32(bits << 24u) >> 24u;" : "return i32(bits & 255u);";
      return [`fn ${name}(row: u32, column: u32) -> i32 {`, ...indent([place, result]), "}"];
    }
    const lines = fieldLines(view, (index, mask, shift, from) => {
      const field = `(${word(view, index)} >> (${shift} + column % 4u * 8u)) & ${mask}u`;
      return from === 0 ? `var code = ${field};` : `code |= (${field}) << ${from}u;`;
    });
    return [`fn ${name}(row: u32, column: u32) -> i32 {`, ...indent([...lines, "return i32(code);"]), "}"];
  });
}

/** Four codes at once: the fields of four neighbours are the four bytes of one word after a shift and a mask. */
function fourCodesReader(writer: Writer, view: BufferView): string {
  writer.markSingle(view.index);
  const { layout } = view;
  return writer.helper(`read4_${view.name}`, (name) => {
    if (layout.kind === "bytes") {
      const bits = word(view, `row * ${layout.rowWords}u + column / 4u`);
      const result = layout.signed ? `unpack4xI8(${bits})` : `vec4<i32>(unpack4xU8(${bits}))`;
      return [`fn ${name}(row: u32, column: u32) -> vec4<i32> {`, `  return ${result};`, "}"];
    }
    const lines = fieldLines(view, (index, mask, shift, from) => {
      const field = `(${word(view, index)} >> (${shift})) & ${hex(mask * 0x01010101)}`;
      return from === 0 ? `var packed = ${field};` : `packed |= (${field}) << ${from}u;`;
    });
    return [
      `fn ${name}(row: u32, column: u32) -> vec4<i32> {`,
      ...indent([...lines, "return vec4<i32>(unpack4xU8(packed));"]),
      "}",
    ];
  });
}

/** An eight-digit literal of u32. */
export const hex = (bits: number): string => `0x${(bits >>> 0).toString(16).padStart(8, "0")}u`;

/** Lines that write one element, whatever else its word holds; `value` has the type that the buffer is read as. */
export function writeOne(
  writer: Writer,
  buffer: number,
  located: Pick<Located, "flat" | "row" | "column">,
  value: string,
): string[] {
  const view = writer.view(buffer), { name, layout } = view;
  switch (layout.kind) {
    case "words":
      writer.markSingle(buffer);
      return [`${name}[${located.flat}] = ${view.buffer.type.dtype === "bool" ? `u32(${value})` : value};`];
    case "halves":
      writer.markAtomic(buffer);
      return [`${halfWriter(writer, view)}(${located.flat}, ${value});`];
    default:
      writer.markAtomic(buffer);
      return [`${codeWriter(writer, view)}(${located.row}, ${located.column}, ${value});`];
  }
}

/** Clears and sets bits of a word that other invocations may write other bits of. */
const replaceBits = (target: string, mask: string, bits: string): string[] => [
  `atomicAnd(&${target}, ~(${mask}));`,
  `atomicOr(&${target}, ${bits});`,
];

/** The function `half_bits(x)`, nearest and ties to even; `pack2x16float` rounds as the device likes. */
export const halfBits = (writer: Writer): string =>
  writer.helper("half_bits", (name) => [
    `fn ${name}(x: f32) -> u32 {`,
    "  let bits = bitcast<u32>(x);",
    "  let sign = (bits >> 16u) & 0x8000u;",
    "  let magnitude = bits & 0x7fffffffu;",
    "  if (magnitude >= 0x477ff000u) { return sign | select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u); }",
    "  if (magnitude < 0x38800000u) { return sign | u32(round(abs(x) * 16777216.0)); }",
    "  return sign | ((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u);",
    "}",
  ]);

const halfWriter = (writer: Writer, view: BufferView): string =>
  writer.helper(`write_${view.name}`, (name) => [
    `fn ${name}(element: u32, value: f32) {`,
    "  let shift = element % 2u * 16u;",
    ...indent(
      replaceBits(`${view.name}[element / 2u]`, "0xffffu << shift", `${halfBits(writer)}(value) << shift`),
    ),
    "}",
  ]);

function codeWriter(writer: Writer, view: BufferView): string {
  const { layout, name: buffer } = view;
  return writer.helper(`write_${buffer}`, (name) => {
    const head = `fn ${name}(row: u32, column: u32, value: i32) {`;
    if (layout.kind === "bytes") {
      const target = `${buffer}[row * ${layout.rowWords}u + column / 4u]`;
      return [
        head,
        "  let shift = column % 4u * 8u;",
        ...indent(replaceBits(target, "255u << shift", "(u32(value) & 255u) << shift")),
        "}",
      ];
    }
    const lines = fieldLines(view, (index, mask, shift, from, bits) => {
      const place = `shift_${bits}`, field = from === 0 ? "u32(value)" : `(u32(value) >> ${from}u)`;
      return [
        `let ${place} = ${shift} + column % 4u * 8u;`,
        ...replaceBits(`${buffer}[${index}]`, `${mask}u << ${place}`, `(${field} & ${mask}u) << ${place}`),
      ]
        .join("\n");
    });
    return [head, ...indent(lines.flatMap((line) => line.split("\n"))), "}"];
  });
}

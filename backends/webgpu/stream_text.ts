/**
 * Reading a stream: the words of a unit, and from them four elements at a time, as four bytes of a word or as floats.
 *
 * Codes become floats without a conversion: a code of b bits put into the top of the mantissa of 1.0 is 1 + q/2^b. The 1 and the power
 * of two leave the sum together with zero point and scale, so an element costs a shift, a mask and a multiply-add.
 */
import { hex } from "./access.ts";
import { fieldPlaces } from "./layout.ts";
import type { Stream } from "./stream.ts";
import { indent, wrap } from "./text.ts";
import type { BufferView, Writer } from "./writer.ts";
import type { KernelTraits } from "./traits.ts";

/** One unit in registers. */
export interface UnitText {
  /** The registers, and text of what is read into each. */
  readonly registers: readonly { readonly name: string; readonly value: string }[];
  /** Text of a word of the unit. */
  word(i: number): string;
}

/** Reads the unit with a number (text) into registers named after `name`. */
export function readUnit(writer: Writer, { buffer, words, element }: Stream, name: string, unit: string): UnitText {
  const view = writer.view(buffer);
  if (element === "f32") {
    if (view.wide) return { registers: [{ name, value: `${view.name}[${unit}]` }], word: () => name };
    const parts = [0, 1, 2, 3].map((i) => `${view.name}[${wrap(unit)} * 4u${i > 0 ? ` + ${i}u` : ""}]`);
    writer.markSingle(buffer);
    return { registers: [{ name, value: `vec4<f32>(${parts.join(", ")})` }], word: () => name };
  }
  if (view.halves) return readHalves(writer, view, name, unit);
  writer.markStreamed(buffer);
  const { vector } = view, count = words / vector;
  const part = (i: number) => count === 1 ? name : `${name}_${i}`;
  const place = (i: number) => count === 1 ? unit : `${wrap(unit)} * ${count}u${i > 0 ? ` + ${i}u` : ""}`;
  return {
    registers: Array.from({ length: count }, (_, i) => ({ name: part(i), value: `${view.name}[${place(i)}]` })),
    word: (i) => vector === 1 ? part(i) : `${part(Math.floor(i / vector))}.${"xyzw"[i % vector]}`,
  };
}

/** A unit of halves: two registers of four, each in the place of two words. */
function readHalves(writer: Writer, { index, name: buffer, wide }: BufferView, name: string, unit: string): UnitText {
  const four = (i: number) => {
    const at = `${wrap(unit)} * 2u${i > 0 ? " + 1u" : ""}`;
    if (wide) return `${buffer}[${at}]`;
    writer.markSingle(index);
    return `vec4<f16>(${[0, 1, 2, 3].map((j) => `${buffer}[(${at}) * 4u + ${j}u]`).join(", ")})`;
  };
  return {
    registers: [0, 1].map((i) => ({ name: `${name}_${i}`, value: four(i) })),
    word: (i) => `${name}_${i >> 1}`,
  };
}

/** Text of a word with the four codes number `quad` of a unit in the low bits of its bytes; `clean` if the other bits must be 0. */
export function packedFour(
  writer: Writer,
  { buffer }: Stream,
  { word }: UnitText,
  quad: number,
  clean: boolean,
): string {
  const { fields } = writer.view(buffer).layout, pieces = fieldPlaces(fields.length > 0 ? fields : [8], 4 * quad);
  const masked = clean || pieces.length > 1;
  const parts = pieces.map(({ word: at, from, bits, to }) => {
    const low = to === 0 ? word(at) : `${word(at)} >> ${to}u`;
    const field = masked && bits < 8 ? `${wrap(low)} & ${hex((2 ** bits - 1) * 0x01010101)}` : low;
    return from === 0 ? field : `${wrap(field)} << ${from}u`;
  });
  return parts.length === 1 ? parts[0] as string : parts.map(wrap).join(" | ");
}

/** Text of elements number 4·quad … 4·quad+3 of a unit as floats: themselves, or 1 + q/2^b for codes q that were raised to be unsigned. */
export function floatFour(writer: Writer, stream: Stream, unit: UnitText, quad: number): string {
  const { element, raised } = stream;
  if (element === "f32") return unit.word(0);
  if (element === "f16") {
    if (writer.view(stream.buffer).halves) return `vec4<f32>(${unit.word(2 * quad)})`;
    return `vec4<f32>(unpack2x16float(${unit.word(2 * quad)}), unpack2x16float(${unit.word(2 * quad + 1)}))`;
  }
  const packed = packedFour(writer, stream, unit, quad, false);
  return `${mantissas(writer, stream)}(${raised > 0 ? `${wrap(packed)} ^ 0x80808080u` : packed})`;
}

/** The function that puts the codes in the bytes of a word into the mantissas of four ones. */
function mantissas(writer: Writer, { bits }: Stream): string {
  const top = 23 - bits, mask = (2 ** bits - 1) * 2 ** top;
  const byte = (i: number) => {
    const left = top - 8 * i;
    return left === 0 ? "codes" : left > 0 ? `codes << ${left}u` : `codes >> ${-left}u`;
  };
  return writer.helper(`one_plus_u${bits}`, (name) => [
    `// 1 + q / ${2 ** bits} of the codes q in the bytes of a word`,
    `fn ${name}(codes: u32) -> vec4<f32> {`,
    `  let shifted = vec4<u32>(${[0, 1, 2, 3].map(byte).join(", ")});`,
    `  return bitcast<vec4<f32>>((shifted & vec4<u32>(${hex(mask)})) | vec4<u32>(0x3f800000u));`,
    "}",
  ]);
}

/** The function `(a: u32, b: u32) -> i32`: the sum of the products of four bytes, all signed or all unsigned. */
export function packedDot(writer: Writer, signed: boolean): string {
  const { packedDots }: KernelTraits = writer.traits, kind = signed ? "I" : "U";
  if (packedDots && signed) return "dot4I8Packed";
  const sum = packedDots
    ? `i32(dot4${kind}8Packed(a, b))`
    : signed
    ? "dot(unpack4xI8(a), unpack4xI8(b))"
    : "i32(dot(unpack4xU8(a), unpack4xU8(b)))";
  return writer.helper(`dot_of_${signed ? "signed" : "unsigned"}_bytes`, (name) => [
    `fn ${name}(a: u32, b: u32) -> i32 {`,
    ...indent([`return ${sum};`]),
    "}",
  ]);
}

/** Small pieces of WGSL text: literals, types, integer arithmetic on loop variables. */
import type { Scalar } from "../kernel.ts";

/** The type of a value, or of four. */
export const typeText = (scalar: Scalar, vector: boolean): string => vector ? `vec4<${scalar}>` : scalar;

const LARGEST = 3.4028234663852886e38;
const SMALLEST_NORMAL = 1.1754943508222875e-38;

/**
 * A literal of the nearest f32. WGSL has no infinities: the largest finite number stands for them. Subnormals are 0, as they
 * may be on any device.
 */
export function floatText(value: number): string {
  const x = Math.fround(Math.min(Math.max(value, -LARGEST), LARGEST));
  if (Number.isNaN(x)) throw new RangeError("Expected a number as constant of a kernel but found NaN");
  if (Math.abs(x) < SMALLEST_NORMAL) return "0.0";
  let text = String(x);
  for (let digits = 1; digits <= 9; digits++) {
    const short = x.toPrecision(digits);
    if (Math.fround(Number(short)) === x && Math.abs(Number(short)) <= LARGEST) {
      text = String(Number(short));
      break;
    }
  }
  if (!/[.e]/.test(text)) text += ".0";
  return x < 0 ? `(${text})` : text;
}

/** A literal of a constant. */
export function constantText(value: number, scalar: Scalar): string {
  if (scalar === "f32") return floatText(value);
  if (scalar === "bool") return value ? "true" : "false";
  return value < 0 ? `i32(${value})` : `${value}i`;
}

/** One summand of an index: `name · stride`. */
export interface Term {
  readonly name: string;
  readonly stride: number;
}

/**
 * `offset + Σ stride·name` in u32. Negative parts wrap around, as they cancel within the sum; an index that stays negative (a branch
 * of `select` not taken) ends beyond the buffer, where reads are harmless.
 */
export function sumText(terms: readonly Term[], offset: number): string {
  const positive = terms.filter(({ stride }) => stride > 0), negative = terms.filter(({ stride }) => stride < 0);
  const product = ({ name, stride }: Term) => Math.abs(stride) === 1 ? name : `${name} * ${Math.abs(stride)}u`;
  let text = positive.map(product).join(" + ");
  if (offset > 0 || text === "") text = [text, `${Math.max(offset, 0)}u`].filter((part) => part !== "").join(" + ");
  for (const term of negative) text += ` - ${product(term)}`;
  return offset < 0 && terms.length > 0 ? `${text} - ${-offset}u` : text;
}

/** The text in parentheses unless it is a name, a literal, a call or in parentheses already. */
export function wrap(text: string): string {
  if (/^[\w.]+(\[[^[\]]*\])?$/.test(text)) return text;
  const open = /^(\w+(<\w+>)?)?\(/.exec(text);
  if (!open) return `(${text})`;
  let depth = 1;
  for (let at = open[0].length; at < text.length; at++) {
    depth += text[at] === "(" ? 1 : text[at] === ")" ? -1 : 0;
    if (depth === 0) return at === text.length - 1 ? text : `(${text})`;
  }
  return `(${text})`;
}

/** Lines moved to the right. */
export const indent = (lines: readonly string[], by = 2): string[] =>
  lines.map((line) => line === "" ? "" : " ".repeat(by) + line);

/** Largest power of two that is at most x. */
export const powerBelow = (x: number): number => 2 ** Math.floor(Math.log2(Math.max(x, 1)));
/** Smallest power of two that is at least x. */
export const powerAbove = (x: number): number => 2 ** Math.ceil(Math.log2(Math.max(x, 1)));

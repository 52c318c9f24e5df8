/**
 * Kernels with known answers, one for each feature that kernel generators use where it works. A feature that is listed is not yet one that
 * works: drivers have been seen to return zeros without an error. Whoever opens a device runs them and believes the answers alone.
 */
import { halfBits } from "../../ir/numerics.ts";
import type { KernelTraits, Subgroup } from "./traits.ts";

/** One canary: entry point `main`, one workgroup, whose results are the eight words of the only buffer (binding 0, storage). */
export interface Canary {
  readonly trait: keyof KernelTraits;
  readonly wgsl: string;
  readonly answer: readonly number[];
}

/** Inputs that no compiler can fold: they are read from the buffer, which starts as zeros. */
const PACKED_DOTS = `\
@group(0) @binding(0) var<storage, read_write> result: array<u32, 8>;
@compute @workgroup_size(1)
fn main() {
  let zero = result[7];
  // (-128, 127, -1, 3) · (2, 3, -4, -128) and the same bytes unsigned
  let a = 0x03ff7f80u ^ zero;
  let b = 0x80fc0302u ^ zero;
  result[0] = bitcast<u32>(dot4I8Packed(a, b));
  result[1] = dot4U8Packed(a, b);
  result[2] = bitcast<u32>(dot4I8Packed(0x7f7f7f7fu ^ zero, 0x80808080u));
  result[3] = dot4U8Packed(0xffffffffu ^ zero, 0xffffffffu);
}
`;

/** Halves as a device writes them, and reads them again: their bits and their sums. */
const HALVES = `\
enable f16;
struct Result { halves: array<vec4<f16>, 2>, words: array<u32, 4> }
@group(0) @binding(0) var<storage, read_write> result: Result;
@compute @workgroup_size(1)
fn main() {
  let zero = f32(result.words[3]);
  result.halves[0] = vec4<f16>(vec4<f32>(zero + 1.0, zero - 2.5, zero + 65504.0, zero + 0x1p-20));
  result.halves[1] = vec4<f16>(result.halves[0].wzyx) + 1.0h;
  let read = vec4<f32>(result.halves[0]) * 2.0 + vec4<f32>(result.halves[1]);
  result.words[0] = u32(i32(read.x * 16.0));
  // The last one is subnormal.
  result.words[1] = u32(read.z + f32(result.halves[0].w) * 1048576.0);
  result.words[2] = bitcast<u32>(read.y + 65504.0);
}
`;

const bytes = (word: number, signed: boolean): number[] =>
  [0, 8, 16, 24].map((shift) => signed ? (word >>> shift) << 24 >> 24 : (word >>> shift) & 255);

/** What a packed product of two words must be, as a word. */
function packedDot(a: number, b: number, signed: boolean): number {
  const left = bytes(a, signed), right = bytes(b, signed);
  return left.reduce((sum, x, i) => sum + x * (right[i] ?? 0), 0) >>> 0;
}

/** Two halves as a word. */
const halfPair = (low: number, high: number): number => (halfBits(high) << 16 | halfBits(low)) >>> 0;

const floatBits = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0;

/** All canaries. */
export const CANARIES: readonly Canary[] = [{
  trait: "halves",
  wgsl: HALVES,
  answer: [
    halfPair(1, -2.5),
    halfPair(65504, 2 ** -20),
    halfPair(1, 65504),
    halfPair(-1.5, 2),
    16 * (2 * 1 + 1),
    Math.floor(2 * 65504 - 1.5 + 1),
    floatBits(2 * -2.5 + 65504 + 65504),
    0,
  ],
}, {
  trait: "packedDots",
  wgsl: PACKED_DOTS,
  answer: [
    packedDot(0x03ff7f80, 0x80fc0302, true),
    packedDot(0x03ff7f80, 0x80fc0302, false),
    packedDot(0x7f7f7f7f, 0x80808080, true),
    packedDot(0xffffffff, 0xffffffff, false),
    0,
    0,
    0,
    0,
  ],
}];

/** Most neighbours that are tried: subgroups of some devices are larger, but no row of a kernel needs more. */
const MOST_NEIGHBOURS = 32;
const MASKS = [1, 2, 4, 8, 16];
const CANARY_THREADS = 256;

/** Counts for every mask the invocations that read their neighbour's register. Two modules, since compilers disagree on the first line. */
export const subgroupCanary = (declared: boolean): string =>
  `\
${declared ? "enable subgroups;\n" : ""}\
@group(0) @binding(0) var<storage, read_write> result: array<atomic<u32>, 8>;
@compute @workgroup_size(${CANARY_THREADS})
fn main(@builtin(local_invocation_index) lane: u32) {
${
    MASKS.map((mask, i) =>
      `  let neighbour${i} = subgroupShuffleXor(lane * 3u, ${mask}u);
  if (neighbour${i} == (lane ^ ${mask}u) * 3u) { atomicAdd(&result[${i}], 1u); }`
    ).join("\n")
  }
}
`;

/**
 * What a subgroup canary has proved.
 *
 * @param counts the words that it left
 * @param least invocations of the smallest subgroup that the device may choose for a kernel
 */
export function provedSubgroup(counts: readonly number[], least: number, declared: boolean): Subgroup | undefined {
  let size = 1;
  while (size < Math.min(least, MOST_NEIGHBOURS) && counts[Math.log2(size)] === CANARY_THREADS) size *= 2;
  return size > 1 ? { size, declared } : undefined;
}

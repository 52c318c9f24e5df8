/** The text of generated kernels: what people read, and what keys the cache of pipelines. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import * as fc from "fast-check";
import type { KernelSpec } from "../../../backends/kernel.ts";
import { generateKernel } from "../../../backends/webgpu/kernel.ts";
import { floatText, sumText, wrap } from "../../../backends/webgpu/text.ts";
import { PORTABLE } from "../../../backends/webgpu/traits.ts";
import { GENERAL } from "../../../backends/webgpu/variants.ts";
import { randomKernel } from "../../support/random_kernels.ts";
import { tintCheck } from "../../tint.ts";
import { MAT_VEC, QUANTIZE, SILU } from "./specs.ts";

const SILU_TEXT = `\
// map_mul_4
//   %3 = sigmoid %gate : f32[8,96]
//   %4 = mul %3 %up : f32[8,96]
// reads gate f32[8,96], layers.0.up f16[8,96]
// writes codes u3[8,96]
// workgroup memory 0 bytes; workgroups: main 1

@group(0) @binding(0) var<storage, read> gate: array<vec4<f32>>; // f32[8,96]
@group(0) @binding(1) var<storage, read> layers_0_up: array<u32>; // f16[8,96]
@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // u3[8,96]

fn read4_layers_0_up(element: u32) -> vec4<f32> {
  let low = unpack2x16float(layers_0_up[element / 2u]);
  let high = unpack2x16float(layers_0_up[element / 2u + 1u]);
  return vec4<f32>(low, high);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = workgroup_id.x;
  let index = group * 64u + lane;
  if (index >= 24u) { return; }
  let i0 = index / 3u;
  let block = index % 3u;
  var codes_words: array<u32, 3>;
  for (var quad = 0u; quad < 8u; quad++) {
    let column = block * 32u + quad * 4u;
    let gate_at = gate[i0 * 24u + column / 4u];
    let up_at = read4_layers_0_up(i0 * 96u + column);
    let term = vec4<i32>(clamp(round((1.0 / (1.0 + exp(min(-gate_at, vec4<f32>(88.0))))) * up_at), vec4<f32>(0.0), vec4<f32>(7.0)));
    let codes_four = pack4xU8(vec4<u32>(term));
    codes_words[quad % 2u] |= (codes_four & 0x03030303u) << (2u * (quad / 2u));
    codes_words[2u] |= ((codes_four >> 2u) & 0x01010101u) << quad;
  }
  for (var word = 0u; word < 3u; word++) {
    codes[i0 * 9u + block * 3u + word] = codes_words[word];
  }
}
`;

const QUANTIZE_TEXT = `\
// row_max_7
//   %7 = max %6 axes=[1] : f32[5,1]
// reads x f32[5,64]
// writes codes i8[5,64], scale f32[5]
// workgroup memory 192 bytes; workgroups: main 5

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[5,64]
@group(0) @binding(1) var<storage, read_write> codes: array<u32>; // i8[5,64]
@group(0) @binding(2) var<storage, read_write> scale: array<f32>; // f32[5]

var<workgroup> partial_f32: array<f32, 32>;
var<workgroup> codes_words: array<atomic<u32>, 16>;

fn max_over_row_f32(lane: u32, value: f32) -> f32 {
  partial_f32[lane] = value;
  workgroupBarrier();
  for (var half = 16u; half > 0u; half /= 2u) {
    if (lane < half) {
      partial_f32[lane] = max(partial_f32[lane], partial_f32[lane + half]);
    }
    workgroupBarrier();
  }
  let result = partial_f32[0];
  workgroupBarrier();
  return result;
}

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = workgroup_id.x;

  // sweep 1
  var kept: array<f32, 2>;
  var running_max = (-3.4028234663852886e+38);
  for (var slot = 0u; slot < 2u; slot++) {
    let i = slot * 32u + lane;
    let x_at = x[row * 64u + i];
    kept[slot] = x_at;
    running_max = max(running_max, abs(x_at));
  }
  let max_of_row = max_over_row_f32(lane, running_max);
  let of_row = max(max_of_row * 0.0078125, 1e-12);
  if (lane == 0u) {
    scale[row] = of_row;
  }

  // sweep 2
  for (var word = lane; word < 16u; word += 32u) {
    atomicStore(&codes_words[word], 0u);
  }
  workgroupBarrier();
  for (var slot = 0u; slot < 2u; slot++) {
    let i = slot * 32u + lane;
    let kept_1 = kept[slot];
    atomicOr(&codes_words[i / 4u], (u32(i32(clamp(round(kept_1 / of_row), (-128.0), 127.0))) & 255u) << (i % 4u * 8u));
  }
  workgroupBarrier();
  {
    let codes_start = row * 16u;
    for (var word = lane; word < 16u; word += 32u) {
      codes[codes_start + word] = atomicLoad(&codes_words[word]);
    }
  }
  workgroupBarrier();
}
`;

const STREAM_TEXT = `\
// dot_dot_9
//   %9 = dot %x %8 lhsContract=[1,2] rhsContract=[1,2] : f32[1,48]
// reads x f32[1,256], down.weight u4[48,256], down.scale f16[48,4], residual f32[1,48]
// writes y f32[1,48]
// workgroup memory 2048 bytes; workgroups: main 2

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // f32[1,256]
@group(0) @binding(1) var<storage, read> down_weight: array<vec4<u32>>; // u4[48,256]
@group(0) @binding(2) var<storage, read> down_scale: array<u32>; // f16[48,4]
@group(0) @binding(3) var<storage, read> residual: array<f32>; // f32[1,48]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // f32[1,48]

var<workgroup> few_tile: array<vec4<f32>, 64>;
var<workgroup> partial_value: array<f32, 256>;

fn finish(batch: u32, m: u32, n: u32, sum: f32) {
  let residual_at = residual[n];
  y[n] = sum + residual_at;
}

fn few(batch: u32, row: u32, k: u32) -> vec4<f32> {
  let x_at = x[k / 4u];
  return x_at;
}

// 1 + q / 16 of the codes q in the bytes of a word
fn one_plus_u4(codes: u32) -> vec4<f32> {
  let shifted = vec4<u32>(codes << 19u, codes << 11u, codes << 3u, codes >> 5u);
  return bitcast<vec4<f32>>((shifted & vec4<u32>(0x00780000u)) | vec4<u32>(0x3f800000u));
}

fn weight_zero(batch: u32, row: u32, group: u32) -> f32 {
  return 8.0;
}

fn read_down_scale(element: u32) -> f32 {
  return unpack2x16float(down_scale[element / 2u])[element % 2u];
}

fn weight_scale(batch: u32, row: u32, group: u32) -> f32 {
  let scale_at = read_down_scale(row * 4u + group);
  return scale_at;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = workgroup_id.x;
  let batch = 0u;
  let part = block;
  let share = lane % 8u;
  let first_row = (part * 16u + lane / 8u) * 2u;
  let row0 = min(first_row, 47u);
  let row1 = min(first_row + 1u, 47u);
  var sum0_0 = 0.0;
  var sum1_0 = 0.0;
  // the small side, ordered so that neighbouring lanes read neighbours
  for (var at = lane; at < 64u; at += 128u) {
    let k = (at % 8u) * 32u + (at / 8u) * 4u;
    few_tile[at] = few(batch, 0u, k);
  }
  workgroupBarrier();
  for (var item = share; item < 8u; item += 8u) {
    let w0 = down_weight[row0 * 8u + item];
    let w1 = down_weight[row1 * 8u + item];
    let unit_here = item;
    var part0_0 = vec4<f32>();
    var part1_0 = vec4<f32>();
    var all0 = vec4<f32>();
    let c0_0 = one_plus_u4(w0.x);
    let c0_1 = one_plus_u4(w1.x);
    let x0 = few_tile[unit_here];
    all0 += x0;
    part0_0 += c0_0 * x0;
    part1_0 += c0_1 * x0;
    let c1_0 = one_plus_u4(w0.y);
    let c1_1 = one_plus_u4(w1.y);
    let x1 = few_tile[8u + unit_here];
    all0 += x1;
    part0_0 += c1_0 * x1;
    part1_0 += c1_1 * x1;
    let c2_0 = one_plus_u4(w0.z);
    let c2_1 = one_plus_u4(w1.z);
    let x2 = few_tile[16u + unit_here];
    all0 += x2;
    part0_0 += c2_0 * x2;
    part1_0 += c2_1 * x2;
    let c3_0 = one_plus_u4(w0.w);
    let c3_1 = one_plus_u4(w1.w);
    let x3 = few_tile[24u + unit_here];
    all0 += x3;
    part0_0 += c3_0 * x3;
    part1_0 += c3_1 * x3;
    let c4_0 = one_plus_u4(w0.x >> 4u);
    let c4_1 = one_plus_u4(w1.x >> 4u);
    let x4 = few_tile[32u + unit_here];
    all0 += x4;
    part0_0 += c4_0 * x4;
    part1_0 += c4_1 * x4;
    let c5_0 = one_plus_u4(w0.y >> 4u);
    let c5_1 = one_plus_u4(w1.y >> 4u);
    let x5 = few_tile[40u + unit_here];
    all0 += x5;
    part0_0 += c5_0 * x5;
    part1_0 += c5_1 * x5;
    let c6_0 = one_plus_u4(w0.z >> 4u);
    let c6_1 = one_plus_u4(w1.z >> 4u);
    let x6 = few_tile[48u + unit_here];
    all0 += x6;
    part0_0 += c6_0 * x6;
    part1_0 += c6_1 * x6;
    let c7_0 = one_plus_u4(w0.w >> 4u);
    let c7_1 = one_plus_u4(w1.w >> 4u);
    let x7 = few_tile[56u + unit_here];
    all0 += x7;
    part0_0 += c7_0 * x7;
    part1_0 += c7_1 * x7;
    sum0_0 += weight_scale(batch, row0, item / 2u) * (16.0 * dot(part0_0, vec4<f32>(1.0)) - (16.0 + weight_zero(batch, row0, item / 2u)) * dot(all0, vec4<f32>(1.0)));
    sum1_0 += weight_scale(batch, row1, item / 2u) * (16.0 * dot(part1_0, vec4<f32>(1.0)) - (16.0 + weight_zero(batch, row1, item / 2u)) * dot(all0, vec4<f32>(1.0)));
  }

  // the lanes of a row add up in a fixed tree
  partial_value[lane] = sum0_0;
  partial_value[128u + lane] = sum1_0;
  workgroupBarrier();
  for (var half = 4u; half > 0u; half /= 2u) {
    if (share < half) {
      partial_value[lane] += partial_value[lane + half];
      partial_value[128u + lane] += partial_value[128u + lane + half];
    }
    workgroupBarrier();
  }
  for (var v = share; v < 2u; v += 8u) {
    let row = first_row + v;
    if (row < 48u) { finish(batch, 0u, row, partial_value[v * 128u + lane - share]); }
  }
}
`;

/** The same without knowing how the weight lies in memory. */
const MAT_VEC_TEXT = `\
// dot_dot_9
//   %9 = dot %x %8 lhsContract=[1,2] rhsContract=[1,2] : f32[1,48]
// reads x f32[1,256], down.weight u4[48,256], down.scale f16[48,4], residual f32[1,48]
// writes y f32[1,48]
// workgroup memory 512 bytes; workgroups: main 24

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // f32[1,256]
@group(0) @binding(1) var<storage, read> down_weight: array<u32>; // u4[48,256]
@group(0) @binding(2) var<storage, read> down_scale: array<u32>; // f16[48,4]
@group(0) @binding(3) var<storage, read> residual: array<f32>; // f32[1,48]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // f32[1,48]

var<workgroup> partial_f32: array<f32, 128>;

fn lhs(batch: u32, row: u32, k: u32) -> vec4<f32> {
  let k0 = k / 64u;
  let k1 = k % 64u;
  let x_at = x[k0 * 16u + k1 / 4u];
  return x_at;
}

fn read4_down_weight(row: u32, column: u32) -> vec4<i32> {
  let block = row * 32u + column / 32u * 4u;
  let quad = column % 32u / 4u;
  var packed = (down_weight[block + quad % 4u] >> (4u * (quad / 4u))) & 0x0f0f0f0fu;
  return vec4<i32>(unpack4xU8(packed));
}

fn read_down_scale(element: u32) -> f32 {
  return unpack2x16float(down_scale[element / 2u])[element % 2u];
}

fn rhs(batch: u32, row: u32, k: u32) -> vec4<f32> {
  let k0 = k / 64u;
  let k1 = k % 64u;
  let weight_at = read4_down_weight(row, k0 * 64u + k1);
  let scale_at = read_down_scale(row * 4u + k0);
  return (vec4<f32>(weight_at) - 8.0) * scale_at;
}

fn sum_of_lanes_f32(lane: u32, value: f32) -> f32 {
  partial_f32[lane] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane % 64u < half) {
      partial_f32[lane] = partial_f32[lane] + partial_f32[lane + half];
    }
    workgroupBarrier();
  }
  let result = partial_f32[lane / 64u * 64u];
  workgroupBarrier();
  return result;
}

fn finish(batch: u32, m: u32, n: u32, sum: f32) {
  let residual_at = residual[n];
  y[n] = sum + residual_at;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = workgroup_id.x;
  let batch = 0u;
  let part = block;
  let row = part * 2u + lane / 64u;
  let share = lane % 64u;
  var sum0 = 0.0;
  var four0 = vec4<f32>();
  for (var k = share * 4u; k < 256u; k += 256u) {
    let w = rhs(batch, row, k);
    four0 += w * lhs(batch, 0u, k);
  }
  sum0 = sum_of_lanes_f32(lane, dot(four0, vec4<f32>(1.0)));
  if (share == 0u) {
    finish(batch, 0u, row, sum0);
  }
}
`;

Deno.test("generateKernel() writes a map to packed codes as one invocation per block", () => {
  assertEquals(generateKernel(SILU).text, SILU_TEXT);
});

Deno.test("generateKernel() writes a per-row quantizer as one kernel", () => {
  assertEquals(generateKernel(QUANTIZE).text, QUANTIZE_TEXT);
});

Deno.test("generateKernel() dequantizes on the way into a mat-vec and adds the residual behind", () => {
  assertEquals(generateKernel(MAT_VEC).text, STREAM_TEXT);
  assertEquals(generateKernel(MAT_VEC, PORTABLE, GENERAL).text, MAT_VEC_TEXT);
});

const KINDS = ["map", "row", "dot", "attention", "topK"] as const;
const KERNELS = fc.tuple(fc.constantFrom(...KINDS), fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 })));

Deno.test("equal specifications have equal text, byte for byte", () => {
  fc.assert(
    fc.property(KERNELS, ([kind, seed]) => {
      const one = generateKernel(randomKernel(kind, seed).spec), two = generateKernel(randomKernel(kind, seed).spec);
      assertEquals(one, two);
    }),
    { numRuns: 60, seed: 5 },
  );
  assertNotEquals(generateKernel(SILU).text, generateKernel({ ...SILU, name: "other" }).text);
});

/** Renames the buffers to words that occur in the kernel's own text, which a careless generator would confuse. */
function renamed(spec: KernelSpec, pick: number): KernelSpec {
  const words = [...new Set(generateKernel(spec).text.replace(/\/\/.*/g, "").match(/[A-Za-z_]\w*/g) ?? [])];
  const buffers = spec.buffers.map((buffer, i) => ({ ...buffer, name: words[(pick + i * 7) % words.length] ?? "x" }));
  return { ...spec, buffers };
}

Deno.test("tensors may have any names, even those that kernels use themselves", async () => {
  const hostile = {
    ...SILU,
    buffers: SILU.buffers.map((b, i) => ({ ...b, name: ["3/*\n} fn", "__var", "möbius"][i] ?? "" })),
  };
  assertEquals(await tintCheck(generateKernel(hostile).text) ?? [], []);
  await fc.assert(
    fc.asyncProperty(KERNELS, fc.nat(200), async ([kind, seed], pick) => {
      const { text } = generateKernel(renamed(randomKernel(kind, seed).spec, pick)),
        errors = await tintCheck(text) ?? [];
      assert(errors.length === 0, `${errors.join("\n")}\n${text}`);
    }),
    { numRuns: 150, seed: 5 },
  );
});

Deno.test("kernels stay within 16 KiB of workgroup memory, 256 invocations and 8 bindings", () => {
  fc.assert(
    fc.property(KERNELS, ([kind, seed]) => {
      const { text } = generateKernel(randomKernel(kind, seed).spec);
      assert(Number(/workgroup memory (\d+) bytes/.exec(text)?.[1]) <= 16384, text);
      for (const [, threads] of text.matchAll(/@workgroup_size\((\d+)\)/g)) assert(Number(threads) <= 256, text);
      assert((text.match(/@binding/g) ?? []).length <= 8, text);
    }),
    { numRuns: 100, seed: 6 },
  );
});

Deno.test("floatText() writes the shortest literal of the nearest f32, and no infinity", () => {
  assertEquals([0, 1, -2, 0.1, 1e-12, 1e20, -0].map(floatText), [
    "0.0",
    "1.0",
    "(-2.0)",
    "0.1",
    "1e-12",
    "100000000000000000000.0",
    "0.0",
  ]);
  assertEquals(floatText(Infinity), "3.4028234663852886e+38");
  assertEquals(floatText(1e-40), "0.0");
});

Deno.test("sumText() and wrap() keep the value of what they put together", () => {
  assertEquals(sumText([{ name: "a", stride: 4 }, { name: "b", stride: -1 }], -3), "a * 4u - b - 3u");
  assertEquals(sumText([], -3), "0u");
  assertEquals(["x", "f(a)(b)", "(a) * (b)", "f(a, (b))", "x[i]"].map(wrap), [
    "x",
    "(f(a)(b))",
    "((a) * (b))",
    "f(a, (b))",
    "x[i]",
  ]);
});

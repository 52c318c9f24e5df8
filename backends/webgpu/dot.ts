/**
 * Contractions. Where one side has many rows and the other at most four, the invocations of a workgroup share the contracted axis
 * (mat_vec.ts); otherwise a workgroup computes a tile, 4 by 4 results per invocation, from operands that it brings to workgroup
 * memory step by step. Operands are expressions: dequantization happens on the way into the tile, once per tile.
 */
import type { DotKernel } from "../kernel.ts";
import { locate, type Place, writeOne } from "./access.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { startBlock } from "./expressions.ts";
import { writeMatVec } from "./mat_vec.ts";
import { operandFunction, runsAlong } from "./operands.ts";
import { indent, sumText, typeText, wrap } from "./text.ts";
import { writeStream } from "./stream_mat_vec.ts";
import { streamPlans } from "./variants.ts";
import type { Writer } from "./writer.ts";

/** At most so many rows on one side count as few. */
const FEW = 4;
/** Contracted elements per step, as fours. */
const STEP = 4;
/** A row of the tile in fours, one of them to spread rows over the banks of the memory. */
const PADDED = STEP + 1;

/** Entry points of a contraction in one of its variants. */
export function writeDot(
  writer: Writer,
  spec: DotKernel,
  variant: string,
): { lines: string[]; dispatches: Dispatch[] } {
  const plan = streamPlans(spec, writer.traits).get(variant);
  if (plan) return writeStream(writer, spec, plan);
  return spec.n <= FEW || spec.m <= FEW ? writeMatVec(writer, spec) : writeTiles(writer, spec);
}

/** Type of the finished sum. */
export const sumScalar = ({ groups, scalar }: DotKernel): "f32" | "i32" => groups ? "f32" : scalar;

/** Rows of a tile: 64, or 32 or 16 where there are not more. */
const tileSide = (rows: number): number => rows <= 16 ? 16 : rows <= 32 ? 32 : 64;

function writeTiles(writer: Writer, spec: DotKernel): { lines: string[]; dispatches: Dispatch[] } {
  const { batch, m, n, k, scalar, groups } = spec, tileM = tileSide(m), tileN = tileSide(n);
  const lanesM = tileM / 4,
    lanesN = tileN / 4,
    threads = lanesM * lanesN,
    vec = typeText(scalar, true),
    sum = sumScalar(spec);
  const tilesM = Math.ceil(m / tileM), tilesN = Math.ceil(n / tileN), count = batch * tilesM * tilesN;
  const inner = groups ? k.slice(1) : k, length = inner.reduce((size, dim) => size * dim, 1);
  const lhsTile = writer.workgroup("lhs_tile", vec, tileM * PADDED),
    rhsTile = writer.workgroup("rhs_tile", vec, tileN * PADDED);
  const results = writer.workgroup("results", sum, lanesM * tileN);
  const load = (side: "lhs" | "rhs", tile: string, size: number, rows: number) => {
    const lead: [string, number][] = [
      ["batch", batch],
      ["row", rows],
      ...(groups ? [["group", k[0] ?? 1] as [string, number]] : []),
    ];
    const name = operandFunction(writer, { name: side, expr: spec[side], lead, k: inner, scalar });
    const first = side === "lhs" ? "m0" : "n0", down = runsAlong(spec[side], 1) && !runsAlong(spec[side], 1 + k.length);
    return [
      `for (var at = lane; at < ${size * STEP}u; at += ${threads}u) {`,
      ...indent([
        down ? `let row = at % ${size}u;` : `let row = at / ${STEP}u;`,
        down ? `let quad = at / ${size}u;` : `let quad = at % ${STEP}u;`,
        `var four = ${vec}();`,
        `if (${first} + row < ${rows}u && k + quad * 4u < ${length}u) {`,
        `  four = ${name}(batch, ${first} + row, ${groups ? "group, " : ""}k + quad * 4u);`,
        "}",
        `${tile}[row * ${PADDED}u + quad] = four;`,
      ]),
      "}",
    ];
  };
  const rows = [0, 1, 2, 3];
  const contract = (into: string) => [
    `for (var k = 0u; k < ${length}u; k += ${STEP * 4}u) {`,
    ...indent([
      ...load("lhs", lhsTile, tileM, m),
      ...load("rhs", rhsTile, tileN, n),
      "workgroupBarrier();",
      `for (var quad = 0u; quad < ${STEP}u; quad++) {`,
      ...indent([
        ...rows.map((j) => `let b${j} = ${rhsTile}[${place("lane_n", j * lanesN)} * ${PADDED}u + quad];`),
        ...rows.flatMap((i) => [
          `let a${i} = ${lhsTile}[${place("lane_m", i * lanesM)} * ${PADDED}u + quad];`,
          `${into}${i} += ${vec}(${rows.map((j) => `dot(a${i}, b${j})`).join(", ")});`,
        ]),
      ]),
      "}",
      "workgroupBarrier();",
    ]),
    "}",
  ];
  const sums = rows.map((i) => `var sum${i} = ${typeText(sum, true)}();`);
  const body = groups
    ? [
      ...sums,
      `for (var group = 0u; group < ${k[0] ?? 1}u; group++) {`,
      ...indent([
        ...rows.map((i) => `var inner${i} = ${vec}();`),
        ...contract("inner"),
        ...rows.map((i) =>
          `sum${i} += ${
            fourTerms(
              writer,
              spec,
              `m0 + lane_m + ${i * lanesM}u`,
              rows.map((j) => `n0 + lane_n + ${j * lanesN}u`),
              `inner${i}`,
            )
          };`
        ),
      ]),
      "}",
    ]
    : [...sums, ...contract("sum")];
  const finish = finishFunction(writer, spec);
  const lines = [
    ...groupNumber(count, "tile"),
    ...coordinates("tile", ["batch", "tile_m", "tile_n"], [batch, tilesM, tilesN]),
    `let m0 = tile_m * ${tileM}u;`,
    `let n0 = tile_n * ${tileN}u;`,
    `let lane_m = lane / ${lanesN}u;`,
    `let lane_n = lane % ${lanesN}u;`,
    ...body,
    "",
    "// results leave through workgroup memory, so that neighbours write neighbours",
    "for (var part = 0u; part < 4u; part++) {",
    ...indent([
      "let four = select(select(sum0, sum1, part == 1u), select(sum2, sum3, part == 3u), part >= 2u);",
      ...["x", "y", "z", "w"].map((axis, j) =>
        `${results}[${
          sumText([{ name: "lane_m", stride: tileN }, { name: "lane_n", stride: 1 }], j * lanesN)
        }] = four.${axis};`
      ),
      "workgroupBarrier();",
      `for (var at = lane; at < ${lanesM * tileN}u; at += ${threads}u) {`,
      `  let m = m0 + part * ${lanesM}u + at / ${tileN}u;`,
      `  let n = n0 + at % ${tileN}u;`,
      `  if (m < ${m}u && n < ${n}u) { ${finish}(batch, m, n, ${results}[at]); }`,
      "}",
      "workgroupBarrier();",
    ]),
    "}",
  ];
  return {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(count) }],
  };
}

const place = (name: string, offset: number): string => wrap(sumText([{ name, stride: 1 }], offset));

function fourTerms(writer: Writer, spec: DotKernel, m: string, n: readonly string[], inner: string): string {
  const term = termFunction(writer, spec);
  return `vec4<f32>(${n.map((at, j) => `${term}(batch, ${m}, ${at}, group, ${inner}.${"xyzw"[j]})`).join(", ")})`;
}

/** The function `term(batch, m, n, group, inner)`: what the sum over one group adds. */
export function termFunction(writer: Writer, { batch, m, n, k, groups, scalar }: DotKernel): string {
  return writer.helper("term", (name) => {
    if (!groups) return [];
    const place: Place = { vars: ["batch", "m", "n", "group"], extents: [batch, m, n, k[0] ?? 1] };
    const block = startBlock(
      writer,
      place,
      [groups.term],
      new Map([[groups.inner, { text: "inner", scalar, vector: false }]]),
    );
    const value = block.emit(groups.term).text;
    return [
      `fn ${name}(batch: u32, m: u32, n: u32, group: u32, inner: ${scalar}) -> f32 {`,
      ...indent([...block.lines, `return ${value};`]),
      "}",
    ];
  });
}

/** The function `finish(batch, m, n, sum)`: the stores. */
export function finishFunction(writer: Writer, spec: DotKernel): string {
  const { batch, m, n, stores, accumulator } = spec, scalar = sumScalar(spec);
  return writer.helper("finish", (name) => {
    const place: Place = { vars: ["batch", "m", "n"], extents: [batch, m, n] };
    const roots = stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);
    const block = startBlock(writer, place, roots, new Map([[accumulator, { text: "sum", scalar, vector: false }]]));
    const writes = stores.map(({ buffer, access, value, scatter }) => {
      const text = block.emit(value).text, { layout } = writer.view(buffer);
      if (!scatter) return writeOne(writer, buffer, locate(layout, access, place), text);
      const row = wrap(block.emit(scatter.index).text),
        chosen = { name: `u32(${row})`, stride: scatter.stride, extent: scatter.extent };
      const lines = writeOne(writer, buffer, locate(layout, access, place, chosen), text);
      return [`if (${row} >= 0i && ${row} < ${scatter.extent}i) {`, ...indent(lines), "}"];
    });
    return [
      `fn ${name}(batch: u32, m: u32, n: u32, sum: ${scalar}) {`,
      ...indent([...block.lines, ...writes.flat()]),
      "}",
    ];
  });
}

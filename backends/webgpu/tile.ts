/**
 * Contractions with many rows on both sides: a workgroup computes a tile of results, `perM` by `perN` of them per invocation in registers,
 * from strips of both operands that it brings to workgroup memory step by step. Operands are expressions: what dequantizes or quantizes
 * happens on the way there, once per tile. The strip of the next step is on its way from memory while one is used.
 *
 * Integers that fit a byte go as bytes, four to a word, and are multiplied four at a time: exact, whatever the order.
 */
import type { DotKernel } from "../kernel.ts";
import { finishFunction, sumScalar, termFunction } from "./epilogue.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { operandFunction, runsAlong } from "./operands.ts";
import { type BytePlan, bytePlan } from "./stream.ts";
import { packedDot } from "./stream_text.ts";
import { indent, sumText, typeText, wrap } from "./text.ts";
import type { KernelTraits } from "./traits.ts";
import type { Writer } from "./writer.ts";

/** How a tile is divided. */
export interface TileShape {
  readonly tileM: number;
  readonly tileN: number;
  /** Results of one invocation along either side; `perN` in fours. */
  readonly perM: number;
  readonly perN: number;
}

/** What the division of one contraction comes to. */
export interface TilePlan extends TileShape {
  readonly lanesM: number;
  readonly lanesN: number;
  readonly threads: number;
  /** Vectors of a strip along k, and contracted elements of a vector. */
  readonly strip: number;
  readonly elements: 4 | 16;
  /** Vectors from one of them to the next in a strip, for either side: padded against bank conflicts where there is room. */
  readonly strideM: number;
  readonly strideN: number;
  /** Vectors of workgroup memory: for the strips, and later for results. */
  readonly vectors: number;
  readonly bytes?: BytePlan;
}

/** The tile of a contraction that nothing is known of. */
export function usualTile({ m, n }: DotKernel): TileShape {
  const side = (rows: number) => rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  return { tileM: side(m), tileN: side(n), perM: 4, perN: 4 };
}

/** The plan for a division, in bytes or not; undefined where the operands do not fit bytes, or the tile workgroup memory. */
export function planTile(
  spec: DotKernel,
  traits: KernelTraits,
  shape: TileShape,
  packed: boolean,
): TilePlan | undefined {
  const bytes = packed ? bytePlan(spec, { few: "lhs", many: "rhs" }) : undefined;
  if (packed && !bytes) return undefined;
  const { tileM, tileN, perM, perN } = shape, strip = packed ? 2 : 4, room = traits.workgroupBytes / 16;
  const lanesM = tileM / perM, lanesN = tileN / perN, results = lanesM * lanesN * perN / 4;
  const padding = (tileM + tileN + 4) * strip <= room ? 2 : 0;
  const vectors = Math.max((tileM + tileN + 2 * padding) * strip, results);
  if (vectors > room) return undefined;
  return {
    ...shape,
    lanesM,
    lanesN,
    threads: lanesM * lanesN,
    strip,
    elements: packed ? 16 : 4,
    strideM: tileM + padding,
    strideN: tileN + padding,
    vectors,
    ...(bytes ? { bytes } : {}),
  };
}

const groupOf = (perGroup: number): string => perGroup === 1 ? "step" : `step / ${perGroup}u`;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const product = (dims: readonly number[]): number => dims.reduce((size, dim) => size * dim, 1);

/** Entry points for a plan. */
export function writeTiles(
  writer: Writer,
  spec: DotKernel,
  plan: TilePlan,
): { lines: string[]; dispatches: Dispatch[] } {
  const { batch, m, n, k, groups } = spec,
    { tileM, tileN, perM, lanesN, threads, strip, elements, bytes } = plan;
  const tilesM = Math.ceil(m / tileM), tilesN = Math.ceil(n / tileN), count = batch * tilesM * tilesN;
  const perGroup = Math.ceil(product(groups ? k.slice(1) : k) / (strip * elements)),
    steps = (groups ? k[0] ?? 1 : 1) * perGroup;
  const vec = bytes ? "vec4<u32>" : typeText(spec.scalar, true);
  const tile = writer.workgroup("tile", vec, plan.vectors);
  const sides = [side(writer, spec, plan, "lhs", perGroup), side(writer, spec, plan, "rhs", perGroup)];
  const fours = range(plan.perN / 4), sums = range(perM).flatMap((i) => fours.map((h) => `${i}_${h}`));
  const sum = typeText(sumScalar(spec), true),
    inner = groups ? "inner" : "sum",
    innerType = typeText(spec.scalar, true);
  const lines = [
    ...groupNumber(count, "number"),
    ...coordinates("number", ["batch", "tile_m", "tile_n"], [batch, tilesM, tilesN]),
    `let m0 = tile_m * ${tileM}u;`,
    `let n0 = tile_n * ${tileN}u;`,
    `let lane_m = lane / ${lanesN}u;`,
    `let lane_n = lane % ${lanesN}u;`,
    ...sums.map((at) => `var sum${at} = ${sum}();`),
    ...(groups ? sums.map((at) => `var inner${at} = ${innerType}();`) : []),
    ...(bytes?.lowered ? range(perM).map((i) => `var all${i} = 0i;`) : []),
    ...sides.flatMap((one) => one.load("var", "0u")),
    `for (var step = 0u; step < ${steps}u; step++) {`,
    ...indent([
      ...sides.flatMap((one) => one.store(tile)),
      "workgroupBarrier();",
      ...sides.flatMap((one) => one.load("", "step + 1u")),
      `for (var at = 0u; at < ${strip}u; at++) {`,
      ...indent(bytes ? byteProducts(writer, plan, tile, inner, bytes) : products(plan, vec, tile, inner)),
      "}",
      "workgroupBarrier();",
      ...(groups ? settle(writer, spec, plan, perGroup) : []),
    ]),
    "}",
    ...(bytes?.lowered && !groups ? sums.map((at) => `sum${at} += ${bytes.lowered} * all${at.split("_")[0]};`) : []),
    ...results(writer, spec, plan, tile),
  ];
  return {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(count) }],
  };
}

const place = (name: string, offset: number): string => sumText([{ name, stride: 1 }], offset);

/** How one operand comes to workgroup memory: what an invocation loads in a step, and where it stores it. */
function side(writer: Writer, spec: DotKernel, plan: TilePlan, name: "lhs" | "rhs", perGroup: number) {
  const { batch, k, groups, scalar } = spec, { strip, elements, threads, bytes } = plan;
  const left = name === "lhs", rows = left ? spec.m : spec.n, size = left ? plan.tileM : plan.tileN;
  const inner = groups ? k.slice(1) : k, length = product(inner), axis = 2 + k.length - 1;
  const lead: [string, number][] = [
    ["batch", batch],
    ["row", rows],
    ...(groups ? [["group", k[0] ?? 1] as [string, number]] : []),
  ];
  const read = operandFunction(writer, { name, expr: spec[name], lead, k: inner, scalar });
  // Operands that are contiguous along their rows are read along them.
  const down = runsAlong(spec[name], 1) && !runsAlong(spec[name], axis);
  const vec = bytes ? "vec4<u32>" : typeText(scalar, true), group = groups ? "group, " : "";
  const four = (at: number) => `${read}(batch, row, ${group}k${at > 0 ? ` + ${at}u` : ""})`;
  const lowered = bytes?.lowered && !left;
  const packed = (at: number) => {
    const word = bytes?.signed === false ? `pack4xU8(vec4<u32>(${four(at)}))` : `pack4xI8(${four(at)})`;
    const raised = `pack4xU8(vec4<u32>(${four(at)})) ^ 0x80808080u`;
    // Whole fours beyond the last element have an expression's value at other elements, or any: they count as 0.
    return length % 16 === 0
      ? lowered ? raised : word
      : `select(0u, ${lowered ? raised : word}, k + ${at}u < ${length}u)`;
  };
  const value = bytes ? `vec4<u32>(${[0, 4, 8, 12].map(packed).join(", ")})` : four(0);
  const inGroup = groups ? `step % ${perGroup}u` : "step",
    walk = groups && perGroup === 1 ? "at" : `(${inGroup} * ${strip}u + at)`;
  const piece = writer.helper(`${name}_piece`, (given) => [
    `fn ${given}(batch: u32, row: u32, step: u32, at: u32) -> ${vec} {`,
    ...indent([
      ...(groups ? [`let group = ${groupOf(perGroup)};`] : []),
      `let k = ${walk} * ${elements}u;`,
      ...(groups
        ? [`if (row >= ${rows}u || group >= ${k[0]}u || k >= ${length}u) { return ${vec}(); }`]
        : [`if (row >= ${rows}u || k >= ${length}u) { return ${vec}(); }`]),
      `return ${value};`,
    ]),
    "}",
  ]);
  const held = range(Math.ceil(size * strip / threads)), first = left ? "m0" : "n0";
  const ragged = size * strip % threads !== 0;
  const index = (i: number) => wrap(sumText([{ name: "lane", stride: 1 }], i * threads));
  const row = (i: number) => down ? `${index(i)} % ${size}u` : `${index(i)} / ${strip}u`;
  const at = (i: number) => down ? `${index(i)} / ${size}u` : `${index(i)} % ${strip}u`;
  const offset = left ? 0 : strip * plan.strideM, stride = left ? plan.strideM : plan.strideN;
  return {
    load: (declare: "var" | "", step: string) =>
      held.map((i) =>
        `${declare === "var" ? "var " : ""}${name}${i} = ${piece}(batch, ${first} + ${row(i)}, ${step}, ${at(i)});`
      ),
    store: (tile: string) =>
      held.map((i) => {
        const line = `${tile}[${offset > 0 ? `${offset}u + ` : ""}(${at(i)}) * ${stride}u + ${row(i)}] = ${name}${i};`;
        return ragged ? `if (${index(i)} < ${size * strip}u) { ${line} }` : line;
      }),
  };
}

/** Lines that read vectors number `at` of an invocation's rows of the right side. */
const rightVectors = ({ perN, lanesN, strip, strideM, strideN }: TilePlan, tile: string): string[] =>
  range(perN).map((j) =>
    `let b${j} = ${tile}[${strip * strideM}u + at * ${strideN}u + ${place("lane_n", j * lanesN)}];`
  );

const leftVector = ({ lanesM, strideM }: TilePlan, tile: string, i: number): string =>
  `let a${i} = ${tile}[at * ${strideM}u + ${place("lane_m", i * lanesM)}];`;

/** Lines for four k: what is added to a four of results is a four of the right side times one of the left. */
function products(plan: TilePlan, vec: string, tile: string, into: string): string[] {
  const fours = range(plan.perN / 4);
  const turned = fours.flatMap((h) =>
    [..."xyzw"].map((part) =>
      `let b${part}${h} = ${vec}(${[0, 1, 2, 3].map((j) => `b${4 * h + j}.${part}`).join(", ")});`
    )
  );
  return [
    ...rightVectors(plan, tile),
    ...turned,
    ...range(plan.perM).flatMap((i) => [
      leftVector(plan, tile, i),
      ...fours.flatMap((h) => [..."xyzw"].map((part) => `${into}${i}_${h} += a${i}.${part} * b${part}${h};`)),
    ]),
  ];
}

/** Lines for sixteen k as bytes. */
function byteProducts(writer: Writer, plan: TilePlan, tile: string, into: string, bytes: BytePlan): string[] {
  const dot = packedDot(writer, bytes.signed);
  const sixteen = writer.helper("dot_of_sixteen", (name) => [
    `fn ${name}(a: vec4<u32>, b: vec4<u32>) -> i32 {`,
    `  return ${[..."xyzw"].map((part) => `${dot}(a.${part}, b.${part})`).join(" + ")};`,
    "}",
  ]);
  return [
    ...rightVectors(plan, tile),
    ...range(plan.perM).flatMap((i) => [
      leftVector(plan, tile, i),
      ...(bytes.lowered ? [`all${i} += ${sixteen}(a${i}, vec4<u32>(0x01010101u));`] : []),
      ...range(plan.perN / 4).map((h) =>
        `${into}${i}_${h} += vec4<i32>(${[0, 1, 2, 3].map((j) => `${sixteen}(a${i}, b${4 * h + j})`).join(", ")});`
      ),
    ]),
  ];
}

/** Lines that add the term of a group where a group ends. */
function settle(writer: Writer, spec: DotKernel, plan: TilePlan, perGroup: number): string[] {
  const term = termFunction(writer, spec), { perM, perN, lanesM, lanesN, bytes } = plan;
  const lines = range(perM).flatMap((i) =>
    range(perN / 4).flatMap((h) => {
      const whole = `inner${i}_${h}`;
      const terms = [..."xyzw"].map((part, j) =>
        `${term}(batch, ${place("m0 + lane_m", i * lanesM)}, ${
          place("n0 + lane_n", (4 * h + j) * lanesN)
        }, group, ${whole}.${part})`
      );
      return [
        ...(bytes?.lowered ? [`${whole} += ${bytes.lowered} * all${i};`] : []),
        `sum${i}_${h} += vec4<f32>(${terms.join(", ")});`,
        `${whole} = ${typeText(spec.scalar, true)}();`,
      ];
    })
  );
  const body = [
    `let group = ${groupOf(perGroup)};`,
    ...lines,
    ...(bytes?.lowered ? range(perM).map((i) => `all${i} = 0i;`) : []),
  ];
  return perGroup === 1
    ? ["{", ...indent(body), "}"]
    : [`if (step % ${perGroup}u == ${perGroup - 1}u) {`, ...indent(body), "}"];
}

/** Lines that bring results to memory through the tile's own workgroup memory, so that neighbours write neighbours. */
function results(writer: Writer, spec: DotKernel, plan: TilePlan, tile: string): string[] {
  const { m, n } = spec, { perM, perN, lanesM, lanesN, tileN, threads, bytes } = plan, fours = perN / 4;
  const finish = finishFunction(writer, spec), scalar = sumScalar(spec), held = bytes ? "u32" : spec.scalar;
  const column = `at % ${tileN}u`;
  const vector = `${tile}[(at / ${tileN}u * ${lanesN}u + ${column} % ${lanesN}u)${
    fours === 1 ? "" : ` * ${fours}u + ${column} / ${4 * lanesN}u`
  }]`;
  const value = `${vector}[${column} / ${lanesN}u${fours === 1 ? "" : " % 4u"}]`;
  const write = writer.helper("write_results", (name) => [
    `fn ${name}(batch: u32, first_m: u32, n0: u32, lane: u32) {`,
    `  for (var at = lane; at < ${lanesM * tileN}u; at += ${threads}u) {`,
    `    let m = first_m + at / ${tileN}u;`,
    `    let n = n0 + ${column};`,
    `    if (m < ${m}u && n < ${n}u) {`,
    `      ${finish}(batch, m, n, ${held === scalar ? value : `bitcast<${scalar}>(${value})`});`,
    "    }",
    "  }",
    "}",
  ]);
  const as = (name: string) => held === scalar ? name : `bitcast<${`vec4<${held}>`}>(${name})`;
  return [
    "",
    "// results leave through workgroup memory, so that neighbours write neighbours",
    ...range(perM).flatMap((i) => [
      ...range(fours).map((h) =>
        `${tile}[${fours === 1 ? "lane" : `lane * ${fours}u${h > 0 ? ` + ${h}u` : ""}`}] = ${as(`sum${i}_${h}`)};`
      ),
      "workgroupBarrier();",
      `${write}(batch, ${place("m0", i * lanesM)}, n0, lane);`,
      ...(i === perM - 1 ? [] : ["workgroupBarrier();"]),
    ]),
  ];
}

/**
 * Contractions of a stream (stream.ts) with few rows: every unit of the large side is read once, whole, and used for all of the few rows.
 * `lanes` invocations share a row and take neighbouring units, so that together they read one contiguous stretch; every invocation holds
 * `rows` rows at a time, so that what it reads of the small side is used as often. With one lane, an invocation computes rows alone.
 *
 * The small side is evaluated once per workgroup into workgroup memory, as floats or as bytes, ordered so that neighbouring lanes read
 * neighbouring vectors; where one lane has its rows alone and the small side is a plain float, it is read where it lies.
 */
import type { DotKernel, Expr } from "../kernel.ts";
import { finishFunction, sumScalar, termFunction } from "./epilogue.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { startBlock } from "./expressions.ts";
import { foldTogether } from "./fold.ts";
import { operandFunction } from "./operands.ts";
import { type BytePlan, bytePlan, mergeAxes, type Stream, streamOf } from "./stream.ts";
import { floatFour, packedDot, packedFour, readUnit, type UnitText } from "./stream_text.ts";
import { constantText, floatText, indent, powerBelow, wrap } from "./text.ts";
import type { KernelTraits } from "./traits.ts";
import type { Writer } from "./writer.ts";

/** How a workgroup is divided. */
export interface StreamShape {
  /** Invocations that share a row, and rows that each of them holds. */
  readonly lanes: number;
  readonly rows: number;
  /** Units that an invocation reads before it computes. */
  readonly units: number;
  /** Whether those of the next round are on their way meanwhile, the first ones before the small side is brought to workgroup memory. */
  readonly ahead: boolean;
  /** Invocations of a workgroup. */
  readonly threads: 128 | 256;
}

/** What the division of one contraction comes to. */
export interface StreamPlan extends StreamShape {
  readonly stream: Stream;
  readonly fewIsM: boolean;
  readonly few: number;
  readonly many: number;
  /** Units contracted in all, and those of a tile of the small side in workgroup memory; 0: it is read where it lies. */
  readonly total: number;
  readonly tile: number;
  /** How the integer operands enter `packedDot`; undefined for floats. */
  readonly bytes?: BytePlan;
}

/** Bytes of the small side in workgroup memory at most: more would leave a device too few invocations to wait for memory with. */
const MOST_TILE_BYTES = 16384;
/** Units of a group, which are written out, at most: 256 bytes of codes or more. */
const MOST_UNITS = 16;
/** More rows on the small side than these need too many registers. */
export const FEW_FOR_STREAMS = 8;

/** The plan for a division; undefined where the contraction is no product of a stream with few rows, or cannot be divided so. */
export function planStream(spec: DotKernel, traits: KernelTraits, shape: StreamShape): StreamPlan | undefined {
  const fewIsM = spec.m <= spec.n, few = Math.min(spec.m, spec.n), many = Math.max(spec.m, spec.n);
  const stream = few <= FEW_FOR_STREAMS ? streamOf(spec, fewIsM ? "rhs" : "lhs") : undefined;
  if (!stream || (spec.groups && spec.scalar === "f32")) return undefined;
  const bytes = spec.scalar === "i32"
    ? bytePlan(spec, fewIsM ? { few: "lhs", many: "rhs" } : { few: "rhs", many: "lhs" })
    : undefined;
  if (spec.scalar === "i32" && (!bytes || stream.element !== "codes" || stream.unit < 16)) return undefined;
  const total = stream.length / stream.unit, { rows } = shape;
  // A lane takes whole groups where the sum over a group must be complete.
  const perGroup = spec.groups ? stream.group / stream.unit : 1;
  if (perGroup > MOST_UNITS) return undefined;
  const lanes = Math.min(shape.lanes, powerBelow(total / perGroup));
  const even = (units: number) => units === 1 || total % (lanes * units) === 0 ? units : 1;
  const units = spec.groups ? perGroup : even(shape.units);
  const plan = {
    stream,
    fewIsM,
    few,
    many,
    lanes,
    rows,
    units,
    // One round has none after it. Of one lane there is never another.
    ahead: shape.ahead && total > lanes * units,
    threads: shape.threads,
    total,
    ...(bytes ? { bytes } : {}),
  };
  const plain = (fewIsM ? spec.lhs : spec.rhs).kind === "load";
  if (lanes === 1 && plain && !bytes) return { ...plan, tile: 0 };
  const partials = lanes > 1 && !foldsInRegisters(lanes, traits) ? shape.threads * rows * few * 4 : 0,
    perUnit = few * stream.unit * (bytes ? 1 : 4);
  const room = Math.min(traits.workgroupBytes, MOST_TILE_BYTES) - partials;
  const most = Math.floor(room / perUnit), round = lanes * units, rounds = Math.floor(most / round);
  // Tiles of equal length, as far as whole rounds allow.
  const tile = most >= total
    ? total
    : rounds === 0
    ? 0
    : Math.ceil(total / round / Math.ceil(total / round / rounds)) * round;
  return tile > 0 ? { ...plan, tile } : undefined;
}

/** Whether the lanes of a row add up without workgroup memory. */
const foldsInRegisters = (lanes: number, { subgroup }: KernelTraits): boolean => lanes <= (subgroup?.size ?? 1);

/** Entry points for a plan. */
export function writeStream(
  writer: Writer,
  spec: DotKernel,
  plan: StreamPlan,
): { lines: string[]; dispatches: Dispatch[] } {
  const { batch } = spec, { lanes, rows, few, many, threads } = plan;
  const blockRows = threads / lanes * rows, blocks = Math.ceil(many / blockRows), count = batch * blocks;
  const rowsHere = range(rows), counts = range(few), sum = sumScalar(spec);
  const at = (i: string, row: string) => plan.fewIsM ? `${i}, ${row}` : `${row}, ${i}`;
  const place = lanes === 1 ? `part * ${threads}u + lane` : `part * ${threads / lanes}u + lane / ${lanes}u`;
  const finish = finishFunction(writer, spec);
  const sums = rowsHere.flatMap((r) => counts.map((i) => ({ r, i, name: `sum${r}_${i}` })));
  const lines = [
    ...groupNumber(count, "block"),
    ...coordinates("block", ["batch", "part"], [batch, blocks]),
    ...(lanes === 1 ? [] : [`let share = lane % ${lanes}u;`]),
    `let first_row = ${rows === 1 ? place : `(${place}) * ${rows}u`};`,
    // Invocations beyond the last row compute it once more: all of them have to reach the barriers.
    ...rowsHere.map((r) => `let row${r} = min(first_row${r > 0 ? ` + ${r}u` : ""}, ${many - 1}u);`),
    ...sums.map(({ name }) => `var ${name} = ${constantText(0, sum)};`),
    ...(plan.ahead
      ? unitsHere(writer, spec, plan, "", "share").map(({ name, value }) => `var next_${name} = ${value};`)
      : []),
    ...tiles(writer, spec, plan),
  ];
  if (lanes === 1) {
    for (const { r, i, name } of sums) {
      lines.push(`if (first_row + ${r}u < ${many}u) { ${finish}(batch, ${at(`${i}u`, `row${r}`)}, ${name}); }`);
    }
  } else if (foldsInRegisters(lanes, writer.traits)) {
    lines.push("", "// the lanes of a row add up in a fixed tree, and share what is to be done with the sums");
    for (const { name } of sums) lines.push(...foldTogether(writer, "sum", name, lanes));
    for (let first = 0; first < sums.length; first += lanes) {
      const [own, ...others] = sums.slice(first, first + lanes), count = 1 + others.length;
      const number = first === 0 ? "share" : `(share + ${first}u)`;
      lines.push(
        "{",
        `  let row = first_row + ${few === 1 ? number : `${number} / ${few}u`};`,
        `  var mine = ${own?.name};`,
        ...others.map(({ name }, i) => `  mine = select(mine, ${name}, share == ${i + 1}u);`),
        `  if (${count < lanes ? `share < ${count}u && ` : ""}row < ${many}u) {`,
        `    ${finish}(batch, ${at(few === 1 ? "0u" : `${number} % ${few}u`, "row")}, mine);`,
        "  }",
        "}",
      );
    }
  } else {
    const partial = writer.workgroup("partial", sum, threads * sums.length);
    lines.push(
      "",
      "// the lanes of a row add up in a fixed tree",
      ...sums.map(({ name }, v) => `${partial}[${v > 0 ? `${v * threads}u + ` : ""}lane] = ${name};`),
      "workgroupBarrier();",
      `for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {`,
      "  if (share < half) {",
      ...sums.map((_, v) => {
        const here = v > 0 ? `${v * threads}u + lane` : "lane";
        return `    ${partial}[${here}] += ${partial}[${here} + half];`;
      }),
      "  }",
      "  workgroupBarrier();",
      "}",
      `for (var v = share; v < ${sums.length}u; v += ${lanes}u) {`,
      `  let row = first_row + ${few === 1 ? "v" : `v / ${few}u`};`,
      `  if (row < ${many}u) { ${finish}(batch, ${
        at(few === 1 ? "0u" : `v % ${few}u`, "row")
      }, ${partial}[v * ${threads}u + lane - share]); }`,
      "}",
    );
  }
  return {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(count) }],
  };
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** The function of the small side over (batch, row, k), k in fours. */
function smallSide(writer: Writer, spec: DotKernel, { fewIsM, few }: StreamPlan): string {
  const { expr, k } = mergeAxes(fewIsM ? spec.lhs : spec.rhs, 2, spec.k);
  const lead = [["batch", spec.batch], ["row", few]] as const;
  return operandFunction(writer, { name: "few", expr, lead, k, scalar: spec.scalar });
}

/** Lines that bring tile after tile of the small side to workgroup memory and add up its products with the stream. */
function tiles(writer: Writer, spec: DotKernel, plan: StreamPlan): string[] {
  const { stream: { unit }, total, tile, few, bytes, threads } = plan, small = smallSide(writer, spec, plan);
  const per = unit / (bytes ? 16 : 4);
  if (tile === 0) {
    return products(writer, spec, plan, {
      first: "",
      units: `${total}u`,
      small: (i, quad) => `${small}(batch, ${i}u, unit_here * ${unit}u + ${4 * quad}u)`,
    });
  }
  const held = writer.workgroup("few_tile", bytes ? "vec4<u32>" : "vec4<f32>", few * per * tile),
    several = tile < total;
  const four = (k: string) => `${small}(batch, ${few === 1 ? "0u" : `at / ${per * tile}u`}, ${k})`;
  const packed = (k: string) => bytes?.signed === false ? `pack4xU8(vec4<u32>(${four(k)}))` : `pack4xI8(${four(k)})`;
  const value = bytes
    ? `vec4<u32>(${[0, 4, 8, 12].map((k) => packed(`k${k > 0 ? ` + ${k}u` : ""}`)).join(", ")})`
    : four("k");
  const piece = few === 1 && per === 1 ? "" : few === 1 ? `at / ${tile}u` : `at / ${tile}u % ${per}u`;
  const unitHere = few === 1 && per === 1 ? "at" : `at % ${tile}u`;
  const start = several ? `(first + ${unitHere}) * ${unit}u` : `${wrap(unitHere)} * ${unit}u`;
  const body = [
    "// the small side, ordered so that neighbouring lanes read neighbours",
    `for (var at = lane; at < ${few * per * tile}u; at += ${threads}u) {`,
    `  let k = ${start}${piece === "" ? "" : ` + ${wrap(piece)} * ${bytes ? 16 : 4}u`};`,
    `  ${several ? `if (k < ${total * unit}u) { ` : ""}${held}[at] = ${value};${several ? " }" : ""}`,
    "}",
    "workgroupBarrier();",
    ...products(writer, spec, plan, {
      first: several ? "first + " : "",
      units: several ? `min(${tile}u, ${total}u - first)` : `${tile}u`,
      small: (i, quad) => {
        const index = (i * per + (bytes ? quad >> 2 : quad)) * tile;
        return `${held}[${index > 0 ? `${index}u + ` : ""}unit_here]${bytes ? `.${"xyzw"[quad & 3]}` : ""}`;
      },
    }),
  ];
  if (!several) return body;
  return [
    `for (var first = 0u; first < ${total}u; first += ${tile}u) {`,
    ...indent([...body, "workgroupBarrier();"]),
    "}",
  ];
}

interface Walk {
  /** Text in front of the number of a unit within the tile, to have its number in the row. */
  readonly first: string;
  /** Units to walk over. */
  readonly units: string;
  /** Text of four elements of row i of the small side (as four bytes for integers), number `quad` of the unit `unit_here`. */
  small(i: number, quad: number): string;
}

/** Lines that walk over the units of this invocation's rows. */
function products(writer: Writer, spec: DotKernel, plan: StreamPlan, walk: Walk): string[] {
  const { stream, lanes, rows, units, few, bytes } = plan, rowsHere = range(rows), counts = range(few);
  const several = stream.group < stream.length, grouped = spec.groups !== undefined, { unit } = stream;
  const corrects = !bytes && (stream.element === "codes" || stream.zero !== undefined);
  const zero = bytes ? "0i" : few * rows <= 8 ? "vec4<f32>()" : "0.0", wide = zero.startsWith("vec4");
  const pairs = rowsHere.flatMap((r) => counts.map((i) => `${r}_${i}`));
  const fresh = [
    ...pairs.map((pair) => `var part${pair} = ${zero};`),
    ...(corrects ? counts.map((i) => `var all${i} = ${zero};`) : []),
    ...(bytes?.lowered ? counts.map((i) => `var all${i} = 0i;`) : []),
  ];
  const total = (name: string) => wide ? `dot(${name}, vec4<f32>(1.0))` : name;
  const settle = (group: string): string[] =>
    rowsHere.flatMap((r) =>
      counts.map((i) => {
        const part = total(`part${r}_${i}`);
        if (!bytes) {
          const scaled = floatTerm(writer, spec, plan, { row: `row${r}`, group, part, all: total(`all${i}`) });
          return `sum${r}_${i} += ${scaled};`;
        }
        const whole = bytes.lowered ? `${part} + ${bytes.lowered} * all${i}` : part;
        if (!grouped) return `sum${r}_${i} += ${whole};`;
        const at = plan.fewIsM ? `${i}u, row${r}` : `row${r}, ${i}u`;
        return `sum${r}_${i} += ${termFunction(writer, spec)}(batch, ${at}, ${group}, ${whole});`;
      })
    );
  const { unitAt, groupOf, step } = places(spec, plan);
  const read = unitsHere(writer, spec, plan, walk.first, "item"),
    texts = unitTexts(writer, spec, plan, walk.first, "item");
  const beyond = plan.ahead ? unitsHere(writer, spec, plan, walk.first, `(item + ${step}u)`, true) : [];
  // All reads stand in front of what uses them.
  const body = plan.ahead
    ? [
      ...read.map(({ name }) => `let ${name} = next_${name};`),
      ...beyond.map(({ name, value }) => `next_${name} = ${value};`),
    ]
    : read.map(({ name, value }) => `let ${name} = ${value};`);
  if (grouped) body.push(...fresh);
  texts.forEach((rowTexts, u) => {
    const lines = [`let unit_here = ${unitAt("item", u)};`, ...(several && !grouped ? fresh : [])];
    for (const quad of range(unit / 4)) lines.push(...fourProducts(writer, plan, rowTexts, quad, walk, corrects, wide));
    if (several && !grouped) lines.push(...settle(groupOf(walk.first, u)));
    body.push(...(units > 1 ? ["{", ...indent(lines), "}"] : lines));
  });
  if (grouped) body.push(...settle(groupOf(walk.first, 0)));
  const end = grouped && units > 1 ? `${wrap(walk.units)} / ${units}u` : walk.units;
  return [
    ...(several || grouped ? [] : fresh),
    `for (var item = ${lanes === 1 ? "0u" : "share"}; item < ${end}; item += ${step}u) {`,
    ...indent(body),
    "}",
    ...(several || grouped ? [] : settle("0u")),
  ];
}

/** Where an invocation's units lie. An item is what it takes in one round: `units` units, `lanes` apart, or one after the other as a group. */
function places({ groups }: DotKernel, { stream, lanes, units }: StreamPlan) {
  const perGroup = stream.group / stream.unit;
  return {
    /** From one item of an invocation to the next. */
    step: groups ? lanes : lanes * units,
    /** Number of unit u of an item, text. */
    unitAt: (item: string, u: number): string => {
      const start = groups && units > 1 ? `${item} * ${units}u` : item, further = groups ? u : u * lanes;
      return further > 0 ? `${start} + ${further}u` : start;
    },
    /** Number of the group that unit u of the item `item` belongs to. */
    groupOf: (first: string, u: number): string => {
      if (groups) return first === "" ? "item" : `${first.replace(" + ", "")} / ${perGroup}u + item`;
      return `${wrap(`${first}item${u > 0 ? ` + ${u * lanes}u` : ""}`)} / ${perGroup}u`;
    },
  };
}

/** The units of an item, by unit and row. */
const unitTexts = (
  writer: Writer,
  spec: DotKernel,
  plan: StreamPlan,
  first: string,
  item: string,
  clamped = false,
): UnitText[][] =>
  range(plan.units).map((u) =>
    range(plan.rows).map((r) => {
      const unit = `${first}${places(spec, plan).unitAt(item, u)}`;
      const inside = clamped ? `min(${unit}, ${plan.total - 1}u)` : unit;
      const name = `w${r}${plan.units > 1 ? `_${u}` : ""}`;
      return readUnit(writer, plan.stream, name, unitText(plan.stream, spec, r, inside));
    })
  );

/** The registers of all units of an item. */
const unitsHere = (...args: Parameters<typeof unitTexts>): UnitText["registers"] =>
  unitTexts(...args).flatMap((rows) => rows.flatMap(({ registers }) => registers));

/** Lines for four elements of every row. */
function fourProducts(
  writer: Writer,
  { stream, rows, few, bytes }: StreamPlan,
  texts: readonly UnitText[],
  quad: number,
  walk: Walk,
  corrects: boolean,
  wide: boolean,
): string[] {
  const rowsHere = range(rows), lines: string[] = [];
  const codes = rowsHere.map((r) => `c${quad}_${r}`);
  rowsHere.forEach((r) => {
    const unit = texts[r] as UnitText;
    if (!bytes) return lines.push(`let ${codes[r]} = ${floatFour(writer, stream, unit, quad)};`);
    const packed = packedFour(writer, stream, unit, quad, true);
    lines.push(`let ${codes[r]} = ${bytes.lowered ? `${wrap(packed)} ^ 0x80808080u` : packed};`);
  });
  for (const i of range(few)) {
    const x = few === 1 ? `x${quad}` : `x${quad}_${i}`;
    lines.push(`let ${x} = ${walk.small(i, quad)};`);
    if (bytes) {
      const dot = packedDot(writer, bytes.signed);
      if (bytes.lowered) lines.push(`all${i} += ${dot}(${x}, 0x01010101u);`);
      rowsHere.forEach((r) => lines.push(`part${r}_${i} += ${dot}(${codes[r]}, ${x});`));
    } else {
      if (corrects) lines.push(`all${i} += ${wide ? x : `dot(${x}, vec4<f32>(1.0))`};`);
      rowsHere.forEach((r) =>
        lines.push(`part${r}_${i} += ${wide ? `${codes[r]} * ${x}` : `dot(${codes[r]}, ${x})`};`)
      );
    }
  }
  return lines;
}

/** Number of a unit of row r of this invocation in the buffer. */
function unitText({ offset, batchStride, rowStride }: Stream, { batch }: DotKernel, r: number, unit: string): string {
  const parts = [
    ...(offset > 0 ? [`${offset}u`] : []),
    ...(batch > 1 && batchStride > 0 ? [`batch * ${batchStride}u`] : []),
    ...(rowStride > 0 ? [`row${r} * ${rowStride}u`] : []),
    unit,
  ];
  return parts.join(" + ");
}

/** What a group, or a part of it, adds: s·(Σ q·x − z·Σ x), for codes with Σ (1 + q/2^b)·x in place of Σ q·x. */
function floatTerm(
  writer: Writer,
  spec: DotKernel,
  { stream, many }: StreamPlan,
  { row, group, part, all }: { row: string; group: string; part: string; all: string },
): string {
  const { zero, scale, element, bits, raised } = stream;
  const factor = (name: string, expr: Expr) =>
    `${factorFunction(writer, spec, stream, many, name, expr)}(batch, ${row}, ${group})`;
  let text = part;
  if (element === "codes") {
    const unit = floatText(2 ** bits), shift = floatText(2 ** bits + raised);
    text = `${unit} * ${part} - ${zero ? `(${shift} + ${factor("weight_zero", zero)})` : shift} * ${all}`;
  } else if (zero) text = `${part} - ${factor("weight_zero", zero)} * ${all}`;
  return scale ? `${factor("weight_scale", scale)} * ${wrap(text)}` : text;
}

/** The function of a zero point or scale over (batch, row, group). */
function factorFunction(
  writer: Writer,
  spec: DotKernel,
  stream: Stream,
  many: number,
  name: string,
  expr: Expr,
): string {
  const { k, batch } = spec;
  let axes = k.length;
  for (let inside = 1; axes > 0 && inside * (k[axes - 1] ?? 1) <= stream.group; axes--) inside *= k[axes - 1] ?? 1;
  const outer = k.slice(0, axes), names = outer.length === 1 ? ["group"] : outer.map((_, i) => `group${i}`);
  return writer.helper(name, (given) => {
    const inner = k.slice(axes).map(() => "0u");
    const place = {
      vars: ["batch", "row", ...names, ...inner],
      extents: [batch, many, ...outer, ...inner.map(() => 1)],
    };
    const block = startBlock(writer, place, [expr]), value = block.emit(expr).text;
    return [
      `fn ${given}(batch: u32, row: u32, group: u32) -> f32 {`,
      ...indent([...(outer.length > 1 ? coordinates("group", names, outer) : []), ...block.lines, `return ${value};`]),
      "}",
    ];
  });
}
